"""What the numbers of a layer say, in words that are no stronger than they."""
from typing import Dict, List, Optional, Sequence

from mmdet_moe.layers.statistics import signs_of_collapse

from .metric import Words

#: p up to which something is told beyond chance.
SIGNIFICANT = 0.05
#: Part of what there is to tell from which experts are called specialists.
SPECIALIST = 0.1


def verdict(layer: dict, interventions: Sequence[dict],
            words: Words) -> List[str]:
    """Sentences about a layer.

    Args:
        layer: Its tables, as ``layer_tables`` gives them, with
            ``functions``.
        interventions: Those of this layer.
        words: Of the metric.
    """
    return [
        sentence for sentence in (
            _routing(layer), _knowledge(layer),
            *_needs(interventions, words),
            _choice(layer['functions']['at_random'], words),
            *_functions(layer, interventions, words))
        if sentence
    ]


def _routing(layer: dict) -> str:
    dependence = layer['input_dependence']['all']
    most = (dependence['interval'] or dict(high=dependence['bits']))['high']
    signs = signs_of_collapse(
        most, layer['living_experts'], layer['experts'],
        layer['top_k']) if layer['chooses'] else []
    if signs:
        return f'The gate has collapsed: {", and ".join(signs)}.'
    if layer['living_experts'] < layer['experts']:
        return (f'{layer["living_experts"]} of {layer["experts"]} experts are '
                'in use.')
    return ''


def _knowledge(layer: dict) -> str:
    """Whether the experts are specialists, and for what."""
    rows = layer['specialisation']
    if not rows:
        return 'Nothing is under a decision of this layer.'
    by = {(row['of'], row['given_level']): row for row in rows}
    level = by.get(('level', False))
    beyond = {
        of: by.get((of, True)) or (by.get((of, False)) if level is None else
                                   None) for of in _PLURAL
    }
    known = {of: row for of, row in beyond.items() if row is not None}
    special = [of for of, row in known.items() if _tells(row)]
    of_one_size = by.get(('domain, given the size', level is not None))
    if 'domain' in special and not (of_one_size and _tells(of_one_size)):
        special.remove('domain')  # a domain may be a size
    where = 'Beyond the level the' if level is not None else 'The'
    told = f'{where} expert tells ' + ' and '.join(
        _part(of, row) for of, row in known.items()) + '.' if known else ''
    if special:
        kind = ' and '.join(_PLURAL[of] for of in special)
        start = f'The experts of this layer are specialists for {kind}.'
    elif level is not None and _tells(level):
        start = 'The experts of this layer are specialists for levels.'
    else:
        asked = [_PLURAL[of] for of in known]
        start = ('The experts of this layer are no specialists for ' +
                 ' or '.join((['levels'] if level is not None else []) + asked)
                 + '.')
    learned = _at_random(known) if layer['chooses'] else ''
    return ' '.join(filter(None, (start, told, learned)))


def _at_random(rows: Dict[str, dict]) -> str:
    """Whether what the experts tell needs a gate that has learned it."""
    told = {of: row['random_p_value'] for of, row in rows.items()
            if row['p_value'] <= SIGNIFICANT
            and row.get('random_p_value') is not None}
    more, same = ([f'{of} (p = {p:.3f})' for of, p in told.items()
                   if (p <= SIGNIFICANT) == beyond]
                  for beyond in (True, False))
    said = []
    if more:
        said.append('Gates that are drawn at random and see the same features '
                    f'tell less of {" and ".join(more)}.')
    if same:
        said.append('That gates drawn at random tell less of '
                    f'{" and ".join(same)} is not shown, so it is not shown '
                    'either that this was learned.')
    return ' '.join(said)


#: What experts may be specialists for, beside the levels.
_PLURAL = {'size': 'sizes', 'superclass': 'superclasses', 'class': 'classes',
           'domain': 'domains'}


def _tells(row: dict) -> bool:
    return (row['p_value'] <= SIGNIFICANT
            and (row['normalised'] or 0) >= SPECIALIST)


def _part(of: str, row: dict) -> str:
    if row['p_value'] > SIGNIFICANT:
        return f'nothing of {of} beyond chance (p = {row["p_value"]:.3f})'
    return (f'{100 * (row["normalised"] or 0):.0f} % of {of} '
            f'(p = {row["p_value"]:.3f})')


def _needs(interventions: Sequence[dict], words: Words) -> List[str]:
    """What is lost without an expert, for each that is missed."""
    dropped = [row for row in interventions if row['kind'] == 'drop']
    if not dropped:
        return []
    said, looked_at, missed = [], 0, 0
    for row in dropped:
        groups = {group: x for group, x in _groups(row, words).items()
                  if x['interval'] is not None}
        looked_at += len(groups)
        lost = {g: x for g, x in groups.items() if _lost(x)}
        missed += len(lost)
        if lost:
            worst = min(lost, key=lambda g: lost[g]['value'])
            best = max(groups, key=lambda g: groups[g]['value'])
            gain = (f', and {best} gain most ({_change(groups[best])})'
                    if groups[best]['interval']['low'] > 0 else '')
            said.append(
                f'Without expert {row["value"]} {worst} lose most '
                f'({_change(lost[worst])} points of {words.metric}){gain}.')
    kinds = (['size'] if words.parts else []) + [*dropped[0]['difference_by']]
    said.append(f'{missed} of {looked_at} intervals of what '
                f'{" and ".join(_PLURAL[kind] for kind in kinds)} '
                'lose without an expert are below 0; by chance alone it would '
                f'be about {0.025 * looked_at:.1f}.')
    return said


def _functions(layer: dict, interventions: Sequence[dict],
               words: Words) -> List[str]:
    """Whether the experts can do different things."""
    functions = layer['functions']
    said = []
    if functions['by_others']:
        used = len(functions['by_others'])
        pairs = used * (used - 1) // 2
        number = len(functions['not_interchangeable'])
        said.append(
            f'{number} of {pairs} pairs of experts are not interchangeable: '
            f'{words.metric} falls when either does what the other is '
            'selected for.' if number else
            f'For none of the {pairs} pairs of experts it is shown that '
            f'{words.metric} of {words.all} falls when either does what the '
            'other is selected for.')
    asked = []
    if any(row['kind'] == 'drop' for row in interventions):
        asked.append((functions['dissociations'], 'without {}', 'is lost '
                      'without either'))
    if functions['by_others']:
        asked.append((functions['dissociations_by_others'],
                      'when other experts do the work of {}',
                      'is lost when others do the work of either'))
    said += [_dissociations(x, how) for x, how, _ in asked if x['found']]
    none = [what for x, _, what in asked if not x['found']]
    if none:
        said.append('That two experts can do different things is not shown by '
                    f'what {", nor by what ".join(none)}.')
    return said


def _choice(lost: Dict[str, dict], words: Words) -> str:
    """What the choice of the experts is worth."""
    found = lost.get(words.all)
    if not found or found['interval'] is None:
        return ''
    if found['interval']['low'] > 0:
        return (f'When the experts are drawn at random, {words.metric} falls '
                f'by {_change(found)} points.')
    return (f'That the choice of the experts matters for {words.metric} is not '
            f'shown: when they are drawn at random, {_change(found)} points '
            'are lost.')


def _dissociations(dissociations: dict, how: str) -> str:
    found = dissociations['found']
    one = found[0]
    (e, f), (g, h) = one['experts'], one['groups']
    many = ('1 pair of experts is doubly dissociated:' if len(found) == 1 else
            f'{len(found)} pairs of experts are doubly dissociated, such as '
            f'{e} and {f}:')
    whole = sum(all(x['interval'] and x['interval']['low'] > 0
                    for x in pair['lost']) for pair in found)
    chance, p = dissociations['by_chance'], dissociations['p_value']
    end = ('' if p <= SIGNIFICANT else ' That is no more than chance: that '
           'they can do different things is not shown by this.')
    return (f'{many} {g} lose {_change(one["more"][0])} points more '
            f'{how.format(e)}, and {h} {_change(one["more"][1])} more '
            f'{how.format(f)} (by chance about {chance:.1f} pairs, '
            f'p = {p:.3f}). That both groups lose something altogether is '
            f'shown for {whole} of {len(found)}.{end}')


def _groups(row: dict, words: Words) -> Dict[str, dict]:
    return {
        **{part: row['difference'][key] for key, part in words.parts.items()},
        **{words.of_group(by, name): x
           for by, groups in row['difference_by'].items()
           for name, x in groups.items()}
    }


def _lost(change: dict) -> bool:
    range_: Optional[dict] = change['interval']
    return (change['value'] is not None and range_ is not None
            and range_['high'] < 0)


def _change(change: dict) -> str:
    """Value and interval, in points."""
    low, high = (100 * change['interval'][k] for k in ('low', 'high'))
    return f'{100 * change["value"]:.1f} [{low:.1f}, {high:.1f}]'
