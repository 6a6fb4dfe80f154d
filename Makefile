# make demo · make test · make test-study · make lint
#
# The first of them sets up .venv (minutes: mmcv is compiled), with the onedl
# forks. OpenMMLab's own releases, in .venv-openmmlab:  make test STACK=openmmlab
# An environment that is there already:  make test PYTHON=/path/to/python
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: demo test test-study lint setup clean-demo help

STACK := onedl
VENV := .venv$(patsubst %,-%,$(filter-out onedl,$(STACK)))
ifdef PYTHON
  SETUP :=
else
  PYTHON := $(VENV)/bin/python
  SETUP := $(VENV)/.ready
endif
export MPLBACKEND := Agg

help:
	@sed -n '1,/^SHELL/p' Makefile | grep '^#'

setup: $(SETUP)

# Everything that the environment is made of; a change sets it up anew.
$(VENV)/.ready: tools/setup_env.sh requirements/$(STACK).txt setup.cfg pyproject.toml
	@bash tools/setup_env.sh --stack $(STACK) $(VENV)

# A process for each core with one thread, as the models are small; the tests
# of a file share what they train.
test: $(SETUP)
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n logical --maxprocesses 8 --dist loadfile

# Every config of configs/retinanet_moe/ through tools/train.py (10 minutes).
test-study: $(SETUP)
	$(PYTHON) -m pytest -m slow

lint: $(SETUP)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m codespell_lib README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs mmdet_moe configs tools tests benchmarks

# ---- demo: generated data, RetinaNet-MoE, test, report ----------------------
DATA := data/shapes
CONFIG := configs/retinanet_moe_fpn_shapes.py
DEMO := work_dirs/retinanet_moe_fpn_shapes

demo: $(DEMO)/report.html
	@cat $(DEMO)/report.txt
	@echo "Which expert did what: $(DEMO)/report.html"

# The folder appears when it is complete, so its existence is enough.
$(DATA): | $(SETUP)
	@echo "== writing 1,200 + 100 pictures to $(DATA) (half a minute)"
	@$(PYTHON) tools/dataset_converters/generate_shapes.py $(DATA)

# --resume goes on from the last epoch of a run that was interrupted.
$(DEMO)/last_epoch: | $(DATA)
	@echo "== training $(CONFIG) (about 6 minutes on 2 cores; EPOCHS=1 is shorter)"
	@$(PYTHON) tools/train.py $(CONFIG) --work-dir $(DEMO) --resume $(if $(EPOCHS),--cfg-options train_cfg.max_epochs=$(EPOCHS))
	@touch $@

$(DEMO)/report.html: $(DEMO)/last_epoch
	@echo "== testing and writing the report"
	@$(PYTHON) tools/analysis_tools/expert_report.py $(CONFIG) "$$(cat $(DEMO)/last_checkpoint)" --work-dir $(DEMO) > $(DEMO)/report.log

clean-demo:
	rm -rf $(DATA) $(DEMO)
