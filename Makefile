# What a fresh Debian machine needs beside Rust, and the few commands.

RUST = $(shell sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' Cargo.toml)
PACKAGES = fuse3 libfuse3-dev pkg-config gcc make python3-venv acl attr sqlite3 git rsync \
	e2fsprogs

# For a ledger on etcd: to build it, to test it.
VAULT_PACKAGES = protobuf-compiler libprotobuf-dev etcd-server etcd-client openssl iproute2

# Where cargo puts what it builds.
TARGET = $(or $(CARGO_TARGET_DIR),$(CARGO_BUILD_TARGET_DIR),target)

# Where `make install` puts what BUILT holds, and how.
PREFIX = /usr/local
SBIN = /sbin
BUILT = $(TARGET)/release
INSTALL_PROGRAM = install -s
# What of docs/ people read who have no source.
PAGES = cli format operations recovery semantics threat-model vault

.PHONY: deps build install test test-long test-vault test-carried demo bench bench-week bench-scale bench-joins bench-micro bench-instructions model lint clean

deps:
	@have=$$(cargo --version 2>/dev/null | cut -d ' ' -f 2); \
	if [ "$$(printf '%s\n' $(RUST) "$$have" | sort -V | head -n 1)" != $(RUST) ]; then \
		echo "Please install Rust $(RUST) or newer (here: $${have:-none}), as by https://rustup.rs" >&2; exit 1; \
	fi
	@missing=$$(for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || printf '%s ' $$p; done); \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ]; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; \
		else \
			echo "Please install: sudo apt install $$missing" >&2; exit 1; \
		fi; \
	fi

build: deps
	cargo build --workspace

# Builds nothing: root needs no compiler, only strip(1) of binutils. mount(8) looks for
# its helper in /sbin only, for a remount by the type that the kernel shows, and the
# helper for amberfs in /usr/local/bin and /usr/bin.
install: LIB = $(DESTDIR)$(PREFIX)/lib/systemd
install: SHARE = $(DESTDIR)$(PREFIX)/share
install: FILE = install -D -m 644 /dev/stdin
install: SHELL = /bin/bash
install: .SHELLFLAGS = -o pipefail -c
install:
	@for program in amberfs amberfs-vault mount-amberfs; do \
		test -x "$(BUILT)/$$program" || \
		{ echo "$(BUILT)/$$program is missing: cargo build --release --workspace" >&2; exit 1; }; \
	done
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(SBIN)"
	$(INSTALL_PROGRAM) -m 755 -t "$(DESTDIR)$(PREFIX)/bin" "$(BUILT)/amberfs" "$(BUILT)/amberfs-vault"
	$(INSTALL_PROGRAM) -m 755 "$(BUILT)/mount-amberfs" "$(DESTDIR)$(SBIN)/mount.amberfs"
	ln -sf mount.amberfs "$(DESTDIR)$(SBIN)/mount.fuse.amberfs"
	sed 's:/usr/local/bin:$(PREFIX)/bin:' mount-helper/systemd/amberfs@.service | \
		$(FILE) "$(LIB)/user/amberfs@.service"
	for unit in amberfs-vault amberfs-relay; do sed 's:/usr/local/bin:$(PREFIX)/bin:' \
		mount-helper/systemd/$$unit.service | $(FILE) "$(LIB)/system/$$unit.service" || exit 1; done
	sed 's:/usr/local/:$(PREFIX)/:' mount-helper/systemd/amberfs-sleep.service | \
		$(FILE) "$(LIB)/system/amberfs-sleep.service"
	install -d "$(LIB)/system/sleep.target.wants"
	ln -sf ../amberfs-sleep.service "$(LIB)/system/sleep.target.wants/"
	sed 's:/usr/local/bin:$(PREFIX)/bin:' mount-helper/systemd/before-sleep | \
		install -D -m 755 /dev/stdin "$(DESTDIR)$(PREFIX)/lib/amberfs/before-sleep"
	install -d "$(SHARE)/man/man1" "$(SHARE)/man/man5" "$(SHARE)/man/man8"
	umask 022 && "$(BUILT)/amberfs" man "$(SHARE)/man/man1" && "$(BUILT)/amberfs-vault" man "$(SHARE)/man/man8"
	$(FILE) "$(SHARE)/man/man8/mount.amberfs.8" <docs/man/mount.amberfs.8
	sed 's:/usr/local/:$(PREFIX)/:' docs/man/amberfs-format.5 | $(FILE) "$(SHARE)/man/man5/amberfs-format.5"
	install -d "$(SHARE)/doc/amberfs"
	install -m 644 -t "$(SHARE)/doc/amberfs" $(addprefix docs/,$(addsuffix .md,$(PAGES)))
	"$(BUILT)/amberfs" completions bash | $(FILE) "$(SHARE)/bash-completion/completions/amberfs"
	"$(BUILT)/amberfs" completions zsh | $(FILE) "$(SHARE)/zsh/site-functions/_amberfs"
	"$(BUILT)/amberfs" completions fish | $(FILE) "$(SHARE)/fish/vendor_completions.d/amberfs.fish"

# The second reader of the format, for the tests.
target/venv/done: tests/requirements.txt
	python3 -m venv target/venv
	target/venv/bin/pip install --quiet -r tests/requirements.txt
	touch $@

test: PACKAGES += softhsm2 $(VAULT_PACKAGES)
test: deps target/venv/done
	tests/run

# What does not fit into it; as root, for it mounts and switches users.
test-long: PACKAGES += fio dbench stress-ng
test-long: deps target/venv/done
	tests/long

# The vault under faults: five sites and members in real processes, thousands of
# simulated worlds. AMBERFS_TEST_FACTOR says how long (10 is some minutes).
test-vault: PACKAGES += softhsm2 $(VAULT_PACKAGES)
test-vault: deps
	tests/vault

# Machines whose REPO real sync clients carry: Syncthing and rclone, all on this machine.
# AMBERFS_TEST_FACTOR says how long; ARGUMENTS is for run.py, as ARGUMENTS='--seed 7'.
test-carried: PACKAGES += syncthing rclone
test-carried: deps
	$(if $(AMBERFS),,cargo build --bin amberfs)
	AMBERFS="$(or $(AMBERFS),$(TARGET)/debug/amberfs)" python3 -B tests/carried/run.py $(ARGUMENTS)

# The main job, visibly.
demo: deps
	cargo build --bins --example chats
	tests/demo

# Beside every peer, in one run; docs/performance.md has the variables.
PEERS = gocryptfs securefs cryfs encfs rclone bindfs
bench: PACKAGES += fio strace $(PEERS)
bench: deps
	cargo build --release --bins --example memfs
	python3 -B benches/runner bench

# What a sync client uploads in a week of chats.
bench-week: PACKAGES += gocryptfs cryfs restic borgbackup
bench-week: deps
	cargo build --release --bins --example chats
	python3 -B benches/runner week

# What grows with the number of files.
bench-scale: PACKAGES += fio
bench-scale: deps
	cargo build --release --bins --example terabyte
	python3 -B benches/runner scale

# What joining costs that two devices wrote apart.
bench-joins: deps
	cargo build --release --bins
	python3 -B benches/runner joins

# The parts that most time goes through, each alone.
bench-micro: deps
	cargo bench --bench micro

# The same in instructions, which a busy machine does not change.
bench-instructions: PACKAGES += valgrind
bench-instructions: deps
	python3 -B benches/runner instructions

# The design of docs/merging.md as a program: a little of everything, some minutes.
model: MODEL = $(or $(CARGO_TARGET_DIR),tests/model/target)/release/model
model:
	cargo build --release --manifest-path tests/model/Cargo.toml
	$(MODEL) scenes
	$(MODEL) laws 20
	$(MODEL) names 0 4000
	$(MODEL) run 0 300
	$(MODEL) pairs 0 1000

lint: PACKAGES += $(VAULT_PACKAGES)
lint: deps
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --all-targets --no-default-features -- -D warnings
	cargo clippy --workspace --all-targets --features amberfs/etcd,amberfs/fuzzing,amberfs/pkcs11 -- -D warnings

clean:
	cargo clean
