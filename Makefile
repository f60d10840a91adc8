# dre. `make help` lists what can be asked for.
DESTDIR ?=
PREFIX ?= /usr
PROFILE ?= release
CARGO ?= cargo
TARGET_DIR ?= $(or $(CARGO_TARGET_DIR),target)
BUILT = $(TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
LIB = $(DESTDIR)$(PREFIX)/lib
INSTALL = install -D
# What failed is in the error's words; the frames of the test's runner behind it only bury them.
export RUST_LIB_BACKTRACE ?= 0

.PHONY: help build install check test test-lab test-vm bench bench-rules bench-mysql demo demo-shell demo-down prepare
help:
	@echo "make build            the eight binaries, PROFILE=release (or dev)"
	@echo "make check            format, lints, unit tests, docs; no root needed"
	@echo "make test             installs what it needs, runs every test, the two-node lab included; root"
	@echo "make test-vm          the part of it that needs a kernel of its own: two virtual machines; root"
	@echo "make bench            the figures beside what is demanded: release build, ten runs a fault, ten minutes of load; root"
	@echo "make bench-rules      the figures of dre-sync beside lsyncd and one rsync per event; root"
	@echo "make bench-mysql      the figures of the database pair beside the one under Linux Heartbeat, twenty deaths each; root"
	@echo "make demo             two nodes, a switchover and a power loss while a client pings; root"
	@echo "make demo-down        removes what make demo left up"
	@echo "make install DESTDIR= puts everything where a package would"

build:
	$(CARGO) build --locked --profile $(PROFILE) --bins

install: build
	$(INSTALL) -m 0755 -t $(LIB)/dre $(BUILT)/dre-elect $(BUILT)/dre-vip $(BUILT)/dre-tipc $(BUILT)/dre-sync $(BUILT)/dre-mysql $(BUILT)/dre-donor
	$(INSTALL) -m 0755 $(BUILT)/drectl $(DESTDIR)$(PREFIX)/bin/drectl
	$(INSTALL) -m 0755 $(BUILT)/dre-generator $(LIB)/systemd/system-generators/dre-generator
	$(INSTALL) -m 0644 -t $(LIB)/systemd/system units/*.service units/*.socket units/*.target
	$(INSTALL) -m 0644 -t $(LIB)/systemd/system/dre-.service.d units/dre-.service.d/*.conf
	$(INSTALL) -m 0644 -t $(LIB)/systemd/system/dre.service.d units/dre.service.d/*.conf
	$(INSTALL) -m 0644 -t $(LIB)/systemd/system/dre@.service.d units/dre@.service.d/*.conf
	$(INSTALL) -m 0644 -t $(LIB)/systemd/system/dre-sync.service.d units/dre-sync.service.d/*.conf
	$(INSTALL) -m 0644 sysusers/dre.conf $(LIB)/sysusers.d/dre.conf
	$(INSTALL) -m 0644 tmpfiles/dre.conf $(LIB)/tmpfiles.d/dre.conf
	$(INSTALL) -m 0644 config/50-dre-sysctl.conf $(LIB)/sysctl.d/50-dre.conf
	$(INSTALL) -m 0644 config/50-dre-modules.conf $(LIB)/modules-load.d/50-dre.conf
	$(INSTALL) -m 0644 config/50-dre-networkd.conf $(LIB)/systemd/networkd.conf.d/50-dre.conf
	$(INSTALL) -m 0644 config/50-dre-nm.conf $(LIB)/NetworkManager/conf.d/50-dre.conf
	$(INSTALL) -m 0644 config/50-dre.rules $(DESTDIR)$(PREFIX)/share/polkit-1/rules.d/50-dre.rules
	$(INSTALL) -m 0644 config/org.dre.Elect.conf $(DESTDIR)$(PREFIX)/share/dbus-1/system.d/org.dre.Elect.conf
	$(INSTALL) -m 0644 config/org.dre.Elect.groups.conf $(DESTDIR)$(PREFIX)/share/dbus-1/system.d/org.dre.Elect.groups.conf
	mkdir -p $(BUILT)/man && $(BUILT)/drectl man $(BUILT)/man && $(INSTALL) -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man1 $(BUILT)/man/*.1
	$(BUILT)/drectl completions bash > $(BUILT)/drectl.bash && $(INSTALL) -m 0644 $(BUILT)/drectl.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/drectl
	$(BUILT)/drectl completions zsh > $(BUILT)/drectl.zsh && $(INSTALL) -m 0644 $(BUILT)/drectl.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_drectl
	$(BUILT)/drectl completions fish > $(BUILT)/drectl.fish && $(INSTALL) -m 0644 $(BUILT)/drectl.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/drectl.fish
	$(INSTALL) -m 0644 README.md $(DESTDIR)$(PREFIX)/share/doc/dre/README.md
	$(INSTALL) -m 0644 LICENSE $(DESTDIR)$(PREFIX)/share/doc/dre/LICENSE
	$(INSTALL) -m 0644 config/dre.catalog $(LIB)/systemd/catalog/dre.catalog
	$(INSTALL) -m 0644 config/dre.sh $(DESTDIR)/etc/profile.d/dre.sh
# What stands there is the administrator's.
	test -e $(DESTDIR)/etc/default/dre || $(INSTALL) -m 0644 config/dre.default $(DESTDIR)/etc/default/dre
	$(INSTALL) -m 0644 config/dre.toml $(DESTDIR)$(PREFIX)/share/doc/dre/dre.toml
	$(INSTALL) -m 0644 config/mysql.toml $(DESTDIR)$(PREFIX)/share/doc/dre/mysql.toml
	$(INSTALL) -m 0644 config/sync.toml $(DESTDIR)$(PREFIX)/share/doc/dre/sync.toml

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) test --locked --lib --bins --test tidy --test config --test contract --test import
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

prepare:
	tests/prepare

# One lab at a time: two on one machine would judge each other's load.
test: prepare check test-lab test-vm

test-lab:
	$(CARGO) build --locked --bins --example demo
	$(CARGO) test --locked --test control --test drectl_rules --test gate --test lab_selftest --test sql
	$(CARGO) test --locked --test pair --test operate --test life --test settings --test split --test forged --test harm --test manage --test vip --test rules --test steady --test groups --test mysql --test mysql_setup --test mysql_faults --test reseed --test two_commands -- --test-threads=1 --nocapture

# Emulated: slow, and alone on the machine for that reason.
test-vm: prepare
	$(CARGO) build --locked --profile vm --bins
	$(CARGO) test --locked --test vm -- --test-threads=1 --nocapture

demo: prepare
	$(CARGO) build --locked --bins --example demo
	$(TARGET_DIR)/debug/examples/demo up

# As one word, as it was typed: what stands behind a ; or in $$(…) is for the node, not for this machine.
demo-shell: export DRE_RUN = $(value RUN)
demo-shell:
	@$(TARGET_DIR)/debug/examples/demo shell $(or $(NODE),hadev1) $(if $(value RUN),"$$DRE_RUN")

demo-down:
	$(TARGET_DIR)/debug/examples/demo down

# The figures, each beside what is demanded: reported, never judged but for two MACs at once. The whole of it is kept; the status is
# cargo's, not that of the filter.
bench: SHELL = /bin/bash
bench: .SHELLFLAGS = -o pipefail -c
bench: prepare build
	DRE_PROFILE=release DRE_RUNS=10 DRE_LOAD_SECONDS=600 $(CARGO) test --locked --test pair --test operate --test steady --no-fail-fast -- --test-threads=1 --nocapture 2>&1 | tee $(TARGET_DIR)/bench.log | grep --line-buffered -E "FIGURE|ABOVE|test result|FAILED|panicked|Error"

# The same nodes, tree and minute for dre-sync, lsyncd and the loop; the release build.
bench-rules: prepare build
	$(CARGO) build --locked --example bench-rules
	DRE_PROFILE=$(PROFILE) $(TARGET_DIR)/debug/examples/bench-rules

# The same nodes, clients and deaths for dre and for Linux Heartbeat with both servers writable; the release build. One of the two: ONLY=dre.
bench-mysql: prepare build
	$(CARGO) build --locked --example bench-mysql
	DRE_PROFILE=$(PROFILE) $(TARGET_DIR)/debug/examples/bench-mysql $(ONLY)
