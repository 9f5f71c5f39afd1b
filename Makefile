# Builds, installs, shows and tests pg_amqp_py.
#
#   make demo [KEEP=1]      installs what is missing, then shows it on two private servers; KEEP=1 leaves them running
#   make demo-stop          ends them
#   make live               the same set-up, then a page that follows a table, with its address, until Ctrl-C
#   make test               the same set-up, then the whole test suite and lint
#   make quick              lint, and the tests that need no server: needs Python 3.11 or later, and no PostgreSQL
#   make lint               ruff, mypy and import-linter
#   make matrix             outbox and inbox alone on PostgreSQL 14 to 18, which npm brings; half an hour.
#                           ON='14 18' these alone
#   make docs               a site of docs/ that can be searched, in build/site; needs no PostgreSQL
#   make mutants            slips put into the code one by one, and the tests that must notice them; some ten minutes
#                           ONLY=... those alone in whose file or text this occurs
#   make bench              the same set-up, then measures and writes docs/reference/benchmarks.md; the better part of
#                           an hour, on a machine that does nothing else
#   make bench QUICK=1      all of it with small numbers, to see that it works: a page in build/bench/quick/
#                           ONLY=bulk,single measures some groups alone, PEER_DSN=... another amqp.publish() beside,
#                           PAGE=1 nothing: it writes the page again with what the last runs have found
#   make; make install      build; install into the PostgreSQL of PG_CONFIG (knows DESTDIR)
#   make install-here       the same, with sudo where it is needed
#                           PIP_ARGS='--no-index --find-links=wheels' where there is no Internet
#   make installcheck       the SQL tests, against the server that PGHOST and PGPORT name
#   make deb                packages for Debian in build/deb: the extension, and the program pg-amqp
#   make uninstall, make clean

EXTENSION = pg_amqp_py
# The control file is the one place for the version.
EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" $(EXTENSION).control)

# Every script comes from the files in sql/; which, and in what order, this program knows.
RENDERER = daemon/pg_amqp_daemon/install/scripts.py
SQL_FILES := $(shell find sql -type f)
EARLIER := $(shell sed -n 's/^EARLIER = (\(.*\))/\1/p' $(RENDERER) | tr -d '",')
UPGRADES = $(EARLIER:%=$(EXTENSION)--%--$(EXTVERSION).sql)
DATA_built = $(EXTENSION)--$(EXTVERSION).sql $(UPGRADES)

# In this order: install creates the extension, privileges drops it.
REGRESS = install broker capture errors publish_change privileges
REGRESS_OPTS = --inputdir=tests/regress --outputdir=$(REGRESS_OUTPUT)
REGRESS_PREP = regress-output
# Whoever may do it in the database (postgres) often does not own the clone. Made when first asked for.
REGRESS_OUTPUT = $(eval REGRESS_OUTPUT := $(shell mkdir -p build/regress 2>&- && test -w build/regress && \
	echo build/regress || mktemp -d))$(REGRESS_OUTPUT)
EXTRA_CLEAN = build

# A pg_config on PATH may belong to a client library alone: take the first that has a server.
ifndef PG_CONFIG
PG_CONFIG := $(shell for candidate in pg_config $$(ls -vr /usr/lib/postgresql/*/bin/pg_config 2>&-); do \
	test -x "$$($$candidate --bindir 2>&-)/postgres" && command -v $$candidate && break; done)
endif
export PG_CONFIG
PGXS := $(if $(PG_CONFIG),$(shell $(PG_CONFIG) --pgxs))

.DEFAULT_GOAL = all
.DELETE_ON_ERROR:
.PHONY: help demo demo-stop live test bench mutants matrix lint quick docs install-here run-demo run-live run-test run-bench run-mutants \
	say-how-long say-result

# ---- What needs nothing installed yet ----

help:
	@sed -n '2,/^$$/s/^# \{0,1\}//p' Makefile

# PostgreSQL may come with prepare.sh: only the second make can see it.
demo live test bench mutants:
	@servers/prepare.sh $(if $(filter demo live,$@),demo)
	@$(MAKE) --no-print-directory run-$@

# ---- Tools, in a virtual environment with the Python that this server's PL/Python is linked to, or without one any ----

PLPYTHON_VERSION := $(if $(PG_CONFIG),$(shell ldd $$($(PG_CONFIG) --pkglibdir)/plpython3.so 2>&- | \
	sed -n 's/.*libpython\(3\.[0-9]*\).*=>.*/\1/p'))
PYTHON_VERSION := $(or $(PLPYTHON_VERSION),$(shell python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&-))
# Debian's own first: a python3.x of the same name on PATH may be a version manager's stub.
PLPYTHON ?= $(firstword $(wildcard /usr/bin/python$(PYTHON_VERSION)) python$(PYTHON_VERSION))
VENV = build/venv
TOOLS = $(VENV)/.made-$(PYTHON_VERSION)

$(TOOLS): pyproject.toml $(EXTENSION).control
	@echo 'Installing tools into $(VENV) ...'
	@$(PLPYTHON) -c 'import ensurepip, venv' 2>&- || \
		{ echo 'Python here has no venv: apt install python3-venv' >&2; exit 1; }
	@rm -rf $(VENV)
	@$(PLPYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check $(PIP_ARGS) --editable '.[test]'
	@touch $@

lint: $(TOOLS)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

quick: lint
	$(VENV)/bin/pytest -m 'not server and not slow' --quiet

matrix: $(TOOLS)
	@$(VENV)/bin/python -m servers.matrix $(ON) -- --numprocesses=2 --dist=loadfile

# Nothing else needs its packages.
SITE_TOOLS = $(VENV)/.made-docs-$(PYTHON_VERSION)
$(SITE_TOOLS): $(TOOLS)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

docs: $(SITE_TOOLS)
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	@echo 'build/site/index.html; to search in it: python3 -m http.server --directory build/site, and http://localhost:8000/'

ifeq ($(wildcard $(PGXS)),)

# With the major version that the package postgresql stands for here.
SERVER_PACKAGES = $(shell major=$$(apt-cache show postgresql 2>&- | \
	sed -n '/^Depends:/{s/.*postgresql-\([0-9][0-9]*\).*/\1/p;q}'); \
	echo postgresql-plpython3-$${major:-VERSION} python3-pip)

all install deb uninstall installcheck install-here run-demo run-live run-test run-bench run-mutants demo-stop:
	@echo 'no PostgreSQL server found: name its pg_config (make PG_CONFIG=...), or install one:' >&2
	@echo 'apt install postgresql $(SERVER_PACKAGES)' >&2
	@exit 1
clean:
	rm -rf build $(DATA_built)

else

include $(PGXS)

# What is installed is readable by the server, whatever the umask of who installs it.
MKDIR_P = umask 022 && mkdir -p

# ---- The Python packages in the server ----

PIKA = build/pika-$(PYTHON_VERSION)
STAGE = build/python-$(PYTHON_VERSION)
PACKAGE = $(addprefix extension/pg_amqp_py/,__init__.py backend wire)
pythondir = $(pkglibdir)/$(EXTENSION)

all: $(STAGE)/.staged

.PHONY: what-is-needed
what-is-needed:
	@test -n '$(PLPYTHON_VERSION)' || \
		{ echo 'no PL/Python 3 in $(pkglibdir): apt install postgresql-plpython3-$(MAJORVERSION)' >&2; exit 1; }
	@command -v $(PLPYTHON) >/dev/null || \
		{ echo 'no $(PLPYTHON), with which PL/Python here goes: apt install python3 python3-pip' >&2; exit 1; }
	@$(PLPYTHON) -m pip --version >/dev/null 2>&1 || test -e $(PIKA)/.fetched || \
		{ echo '$(PLPYTHON) has no pip: apt install python3-pip' >&2; exit 1; }

$(EXTENSION)--$(EXTVERSION).sql: $(RENDERER) $(SQL_FILES) | what-is-needed
	$(PLPYTHON) $(RENDERER) extension > $@

$(UPGRADES): $(EXTENSION)--%--$(EXTVERSION).sql: $(RENDERER) $(SQL_FILES) | what-is-needed
	$(PLPYTHON) $(RENDERER) upgrade $* > $@

$(PIKA)/.fetched: packaging/requirements.txt | what-is-needed
	rm -rf $(PIKA)
	PIP_ROOT_USER_ACTION=ignore $(PLPYTHON) -m pip install --quiet --disable-pip-version-check \
		--no-deps --require-hashes --no-compile $(PIP_ARGS) --target $(PIKA) -r packaging/requirements.txt || \
		{ echo 'no Internet here? docs/how-to/packages.md says what to do' >&2; exit 1; }
	touch $@

# Backends cannot write below a folder of root's, so the bytecode is made here; unchecked, so that it
# stays valid whatever timestamps copying and packaging give to the sources.
$(STAGE)/.staged: $(PIKA)/.fetched $(shell find extension/pg_amqp_py -name __pycache__ -prune -o -print)
	rm -rf $(STAGE)
	mkdir -p build
	cp -R $(PIKA) $(STAGE)
	mkdir $(STAGE)/pg_amqp_py
	cp -R $(PACKAGE) $(STAGE)/pg_amqp_py/
	find $(STAGE) -name __pycache__ -prune -exec rm -rf {} +
	$(PLPYTHON) -m compileall -q -f --invalidation-mode unchecked-hash $(STAGE)
	touch $@

install: install-python
.PHONY: install-python
# Beside, then in place: a running backend never sees half of it, and nothing stale stays.
install-python: all
	rm -rf '$(DESTDIR)$(pythondir).new'
	$(MKDIR_P) '$(DESTDIR)$(pythondir).new'
	cp -R $(STAGE)/. '$(DESTDIR)$(pythondir).new'
	rm '$(DESTDIR)$(pythondir).new/.staged' '$(DESTDIR)$(pythondir).new/.fetched'
	chmod -R u=rwX,go=rX '$(DESTDIR)$(pythondir).new'
	rm -rf '$(DESTDIR)$(pythondir).old'
	if [ -e '$(DESTDIR)$(pythondir)' ]; then mv '$(DESTDIR)$(pythondir)' '$(DESTDIR)$(pythondir).old'; fi
	mv '$(DESTDIR)$(pythondir).new' '$(DESTDIR)$(pythondir)'
	rm -rf '$(DESTDIR)$(pythondir).old'

uninstall: uninstall-python
.PHONY: uninstall-python
uninstall-python:
	rm -rf '$(DESTDIR)$(pythondir)'

.PHONY: regress-output
regress-output:
	@test -d '$(REGRESS_OUTPUT)'

# ---- Packages ----

.PHONY: deb
deb: all
	@rm -rf build/deb
	@$(MAKE) --no-print-directory --silent install DESTDIR='$(CURDIR)/build/deb/extension'
	@VERSION=$(EXTVERSION) MAJOR=$(MAJORVERSION) PYTHON=$(PLPYTHON) PYTHON_VERSION=$(PYTHON_VERSION) \
		PIP_ARGS='$(PIP_ARGS)' packaging/deb.sh build/deb

# ---- Demo, tests, benchmarks ----

# Built as whoever calls; only copying into the server's folders needs root.
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)
install-here:
	@echo 'Building ...'
	@$(MAKE) --no-print-directory --silent all
	@echo 'Installing into $(pkglibdir) and $(datadir) ...'
	@$(SUDO) $(MAKE) --no-print-directory --silent install DESTDIR= PG_CONFIG=$(PG_CONFIG)

run-demo: install-here $(TOOLS)
	@$(VENV)/bin/python -m demo $(if $(KEEP),--keep)

run-live: install-here $(TOOLS)
	@$(VENV)/bin/python -m demo.live

# The checks of style last: none of them shall keep anybody from seeing whether it works.
# Four at a time, each with servers of its own: tests mostly wait. In the order of tests/conftest.py.
PYTEST_ARGS = --numprocesses=4 --dist=loadfile --no-loadscope-reorder --durations=15
RESULT = build/tests.xml
run-test: say-how-long install-here $(TOOLS)
	$(VENV)/bin/pytest $(PYTEST_ARGS) --junitxml=$(RESULT)
	@$(MAKE) --no-print-directory lint say-result

say-how-long:
	@echo 'All tests, then lint: about a quarter of an hour with four cores, twice as long with two.'

# What pytest has said, behind all that lint says.
say-result:
	@sed -n 's/.*errors="\([0-9]*\)" failures="\([0-9]*\)" skipped="\([0-9]*\)" tests="\([0-9]*\)" .*/All is well: \4 tests (\3 skipped, failures: \2, errors: \1), and lint found nothing./p' $(RESULT)

run-mutants: install-here $(TOOLS)
	@$(VENV)/bin/python -m mutants $(if $(ONLY),--only '$(ONLY)')

# What draws the plots is large, and nothing else needs it.
PLOT_TOOLS = $(VENV)/.made-bench-$(PYTHON_VERSION)
$(PLOT_TOOLS): $(TOOLS)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@

run-bench: install-here $(PLOT_TOOLS)
	@$(VENV)/bin/python -m bench $(if $(QUICK),--quick) $(if $(ONLY),--only '$(ONLY)') \
		$(if $(PEER_DSN),--peer-dsn '$(PEER_DSN)') $(if $(PAGE),--write-only)

demo-stop:
	@$(VENV)/bin/python -m demo --stop

# The servers of `make demo KEEP=1` are known only by what is in build/.
clean: stop-kept-demo
.PHONY: stop-kept-demo
stop-kept-demo:
	@test ! -e build/demo.json || $(MAKE) --no-print-directory demo-stop

endif
