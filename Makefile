# What a person types. Everything lands in .venv/ (the installation) and build/ (what runs leave).

SHELL := /bin/bash
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# What the demo needs, without what tests and lints.
LAB := $(VENV)/.lab
comma := ,

# Debian keeps mke2fs and sfdisk where an ordinary user's PATH does not look.
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: help audit requirements demo test test-long test-quick coverage system-test vm-test install-test chaos lint tox bench dist rpm rpm-test systemd-test shapes-test clean programs test-programs rpm-programs systemd-programs

help:
	@echo 'make demo         a whole site on this machine: a build on the bus becomes public AMIs'
	@echo 'make demo VM=1    the same with virtual machines that boot the AMIs: some minutes'
	@echo 'make test         lint, unit tests, system tests, virtual machines'
	@echo 'make test-long    the tests that no change has to wait for (docs/testing.md)'
	@echo 'make test-quick   lint, and the tests that start no process'
	@echo 'make coverage     the tests of make test, and which lines they run'
	@echo 'make system-test  of these, those of whole processes, on virtual machines too'
	@echo 'make vm-test      the tests with virtual machines alone, one by one, the long ones too'
	@echo 'make chaos        workers and hub killed hundreds of times: two hours; SEEDS="1 2" to choose'
	@echo 'make lint         ruff, mypy, and the contracts of imports'
	@echo 'make tox          the tests on each of Python 3.11, 3.12 and 3.13 that is here'
	@echo 'make install-test  the installation of README.md, into an empty environment, on each of these'
	@echo 'make bench        how fast fedimg is, and against which limit: half an hour, BENCH=publish for one'
	@echo 'make audit        known vulnerabilities of what is installed, by PyPI; no part of the tests'
	@echo 'make audit ADVISORIES=all.zip  the same without the network: docs/operations.md'
	@echo 'make requirements write requirements/ anew, with hashes, after setup.py or constraints.txt changed'
	@echo 'make dist         the source archive, with wheels for the system Python and this machine'
	@echo 'make rpm          RPMs of it, which need no network to be built'
	@echo 'make rpm-test     build, unpack and run them, with packages from PyPI'
	@echo 'make systemd-test  install, start, kill and hang fedimg under a systemd, in a container; as root'
	@echo 'make shapes-test  images in the shapes of Fedora, and of arm64, in machines; SHAPE=arm64 for one'
	@echo 'make clean        remove build/, where the demo keeps its site'

demo: programs $(LAB)
	@$(RUN) -m lab demo --state build/demo $(if $(VM),--vm)

# So many files of tests at once: most tests wait for something, most of the time. Those of virtual
# machines begin first, and take what the others leave of the processors.
AT_ONCE := 4

test: test-programs lint
	$(RUN) -m pytest -n $(AT_ONCE) -m 'not long and not rpm and not systemd and not shape' --durations=30

test-long: test-programs $(INSTALLED)
	$(RUN) -m pytest -n $(AT_ONCE) -m long --durations=30

# No more at once than processors: these tests hardly wait.
test-quick: lint
	$(RUN) -m pytest -n 2 -m 'not process' --durations=10

# Apart, as counting lines makes every test of Python's own time slower.
coverage: test-programs $(INSTALLED)
	$(RUN) -m pytest -n $(AT_ONCE) -m 'not long and not rpm and not systemd and not shape' --cov

system-test: test-programs $(INSTALLED)
	$(RUN) -m pytest -n $(AT_ONCE) -m 'not long and not rpm and not systemd and not shape' tests/system

vm-test: test-programs $(INSTALLED)
	$(RUN) -m pytest -m 'vm and not shape'

# Each seed is three campaigns: images are written by an instance, and without one; and several
# workers on one PostgreSQL.
SEEDS := 1 2
chaos: test-programs $(INSTALLED)
	$(RUN) -m tests.chaos --seeds $(SEEDS)
	$(RUN) -m tests.chaos --seeds $(SEEDS) --write-via direct
	$(RUN) -m tests.chaos --seeds $(SEEDS) --workers 3 --moments 200

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-cache --no-logo

# pyenv shows one Python at a time; tox is told of the others.
PYENV := $(wildcard $(HOME)/.pyenv/versions/3.1[123].*/bin/python)
tox: test-programs $(INSTALLED)
	$(RUN) -m pip install --quiet --constraint constraints.txt tox
	$(RUN) -m tox $(if $(PYENV),--discover $(PYENV))

bench: programs $(INSTALLED)
	$(RUN) -m bench $(BENCH)

# In an environment of their own: what they need is none of fedimg's.
build/tools: Makefile
	@python3 -m venv build/tools
	@build/tools/bin/pip install --quiet --disable-pip-version-check 'uv==0.13.9' 'pip-audit==2.*' \
	    'build==1.*'
	@touch build/tools

# PyPI is asked, or a set of advisories read that was downloaded before: a site without the network has
# pip's own libraries, and no build/tools.
audit: $(if $(ADVISORIES),,build/tools)
	@$(or $(wildcard $(RUN)),python3) tools/audit \
	    $(if $(ADVISORIES),--advisories '$(ADVISORIES)',--pip-audit build/tools/bin/pip-audit) \
	    requirements/fedimg.txt

requirements: build/tools
	@build/tools/bin/python tools/hash-requirements build/tools/bin/uv

# The package has the Python of the system, not of .venv, and wheels for that one and this machine.
PACKAGE_PYTHON := /usr/bin/python3
dist:
	packaging/source-archive $(PACKAGE_PYTHON) build/dist

rpm: rpm-programs dist
	rm -rf build/rpm
	rpmbuild -tb --quiet --define '_topdir $(CURDIR)/build/rpm' \
	    --define 'python_for_fedimg $(PACKAGE_PYTHON)' build/dist/fedimg-*.tar.gz

rpm-test: rpm-programs test-programs $(INSTALLED)
	$(RUN) -m pytest -n 0 -m rpm tests/system

# A Debian in systemd-nspawn, made by mmdebstrap and kept in build/systemd; pip asks its index.
systemd-test: test-programs systemd-programs $(INSTALLED)
	$(RUN) -m pytest -n 0 -m systemd --durations=20 tests/system

# Each builds its image once, for minutes, and boots it in an emulated machine: SHAPE=arm64 for one.
shapes-test: test-programs $(INSTALLED)
	@tools/system-packages shapes
	$(RUN) -m pytest -n 0 -m shape $(if $(SHAPE),-k '$(SHAPE)') --durations=10

rpm-programs:
	@tools/system-packages rpm

systemd-programs:
	@tools/system-packages systemd

clean:
	rm -rf build

# The system's programs that the lab calls, and the tests.
programs:
	@tools/system-packages $(if $(VM),vm)

test-programs:
	@tools/system-packages tests vm

# pip's own lines in README.md, on each Python that is here; make test does so on one.
install-test: $(INSTALLED)
	FEDIMG_PYTHONS='$(or $(PYENV),$(foreach version,11 12 13,$(shell command -v python3.$(version))))' \
	    $(RUN) -m pytest tests/system/test_installation.py

# What is imported is compiled then, once.
unexport PYTHONDONTWRITEBYTECODE
install = PYTHONWARNINGS='ignore:Editable installation' $(RUN) -m pip install --quiet $(2) \
    --disable-pip-version-check --constraint constraints.txt --editable '.[$(1)]' --editable ./fedimg-messages

# To compile all libraries was two fifths of an installation. Tests want them compiled: their processes
# would each do so at once, and some tests measure what a process takes.
lab = $(call install,lab,--no-compile)
development = $(call install,lab$(comma)test$(comma)lint,)

# The stamps are as old as the last installation, so that a second run installs nothing.
$(LAB) $(INSTALLED): setup.py constraints.txt pyproject.toml fedimg-messages/pyproject.toml
	@tools/virtualenv $(VENV)
	@echo 'Installing into $(VENV) (a minute or two the first time)'
	@$(if $(filter $(LAB),$@),$(lab),$(development))
	@touch $(LAB) $@
