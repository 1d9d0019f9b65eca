# What a fresh Debian machine needs beside Rust, and the few commands.

PACKAGES = fuse3 libfuse3-dev pkg-config gcc make python3-venv acl attr sqlite3 git rsync \
	e2fsprogs

# For a ledger on etcd: to build it, to test it.
VAULT_PACKAGES = protobuf-compiler libprotobuf-dev etcd-server etcd-client openssl iproute2

# Where `make install` puts what BUILT holds.
PREFIX = /usr/local
SBIN = /sbin
BUILT = target/release

.PHONY: deps build install test test-long test-vault demo bench bench-week bench-scale bench-micro bench-instructions lint clean

deps:
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

# Builds nothing: root needs no compiler. mount(8) looks for its helper in /sbin
# only, and the helper for amberfs in /usr/local/bin and /usr/bin.
install: LIB = $(DESTDIR)$(PREFIX)/lib/systemd
install: SHARE = $(DESTDIR)$(PREFIX)/share
install:
	@for program in amberfs amberfs-vault mount-amberfs; do \
		test -x $(BUILT)/$$program || \
		{ echo "$(BUILT)/$$program is missing: cargo build --release --workspace" >&2; exit 1; }; \
	done
	install -D -t $(DESTDIR)$(PREFIX)/bin $(BUILT)/amberfs $(BUILT)/amberfs-vault
	install -D $(BUILT)/mount-amberfs $(DESTDIR)$(SBIN)/mount.amberfs
	install -d $(LIB)/user $(LIB)/system $(LIB)/system/sleep.target.wants $(SHARE)/bash-completion/completions \
		$(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	sed 's:/usr/local/bin:$(PREFIX)/bin:' mount-helper/systemd/amberfs@.service \
		>$(LIB)/user/amberfs@.service
	for unit in amberfs-vault amberfs-relay; do sed 's:/usr/local/bin:$(PREFIX)/bin:' \
		mount-helper/systemd/$$unit.service >$(LIB)/system/$$unit.service || exit 1; done
	sed 's:/usr/local/:$(PREFIX)/:' mount-helper/systemd/amberfs-sleep.service \
		>$(LIB)/system/amberfs-sleep.service
	ln -sf ../amberfs-sleep.service $(LIB)/system/sleep.target.wants/
	install -d $(DESTDIR)$(PREFIX)/lib/amberfs
	sed 's:/usr/local/bin:$(PREFIX)/bin:' mount-helper/systemd/before-sleep \
		>$(DESTDIR)$(PREFIX)/lib/amberfs/before-sleep
	chmod 755 $(DESTDIR)$(PREFIX)/lib/amberfs/before-sleep
	$(BUILT)/amberfs completions bash >$(SHARE)/bash-completion/completions/amberfs
	$(BUILT)/amberfs completions zsh >$(SHARE)/zsh/site-functions/_amberfs
	$(BUILT)/amberfs completions fish >$(SHARE)/fish/vendor_completions.d/amberfs.fish

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

# The parts that most time goes through, each alone.
bench-micro: deps
	cargo bench --bench micro

# The same in instructions, which a busy machine does not change.
bench-instructions: PACKAGES += valgrind
bench-instructions: deps
	python3 -B benches/runner instructions

lint: PACKAGES += $(VAULT_PACKAGES)
lint: deps
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --workspace --all-targets --features amberfs/etcd,amberfs/fuzzing,amberfs/pkcs11 -- -D warnings

clean:
	cargo clean
