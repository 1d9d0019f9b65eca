# What a fresh Debian machine needs beside Rust, and the few commands.

PACKAGES = fuse3 libfuse3-dev pkg-config gcc make python3-venv acl attr sqlite3 git rsync

.PHONY: deps build test demo figures lint clean

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

# The second reader of the format, for the tests.
target/venv/done: tests/requirements.txt
	python3 -m venv target/venv
	target/venv/bin/pip install --quiet -r tests/requirements.txt
	touch $@

test: deps target/venv/done
	tests/run

# The main job, visibly.
demo: deps
	cargo build --bins --example chats
	tests/demo

# First figures, beside gocryptfs.
figures: PACKAGES += fio gocryptfs
figures: deps
	cargo build --release --bins --example chats
	benches/figures

lint:
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings

clean:
	cargo clean
