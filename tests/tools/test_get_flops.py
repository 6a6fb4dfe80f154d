"""tools/analysis_tools/get_flops.py as a user calls it."""
import json

from command import MOE, tool

GET_FLOPS = 'tools/analysis_tools/get_flops.py'


def test_get_flops(tmp_path):
    file = tmp_path / 'new' / 'flops.json'
    output = tool(GET_FLOPS, MOE, '--shape', 96, 128, '--json', file,
                  '--cfg-options', 'model.bbox_head.moe.num_experts=3')
    assert 'bbox_head' in output and 'padded to 96 x 128' in output
    saved = json.loads(file.read_text())
    head, dense = (saved[key]['bbox_head'] for key in ('parts', 'twin'))
    # Both subnets of 3 experts, and their gates of 64 x 3 weights, 3 biases.
    assert head['params'] == 3 * dense['params'] + 2 * 65 * 3
    assert f'{head["params"]:,}' in output


def test_bad_input(tmp_path):
    output = tool(GET_FLOPS, tmp_path / 'none.py', ok=False)
    assert 'none.py' in output and 'error:' in output
