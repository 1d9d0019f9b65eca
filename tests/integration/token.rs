//! A vault whose keys are in a PKCS#11 token, as it is run: `SoftHSM`, plain or
//! behind a module that makes faults on demand. Each token has its own folder.

#[cfg(not(feature = "pkcs11"))]
#[test]
fn tokens() {
    println!("SKIPPED: token: built without --features pkcs11");
}

#[cfg(feature = "pkcs11")]
mod with_softhsm {
    use std::fs;
    use std::io::{BufRead, BufReader};
    use std::path::PathBuf;
    use std::process::{Child, Command, Output, Stdio};
    use std::time::{Duration, Instant};

    use crate::main_job::{COST, secret};
    use crate::world::World;

    const MODULES: [&str; 3] = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ];
    const BY_PASSWORD: [&str; 4] = ["ls", "repo", "--password-file", "password"];

    /// A world with tokens and the vaults that use them, by name.
    struct Tokens {
        world: World,
        softhsm: PathBuf,
        module: PathBuf,
    }

    struct Served {
        child: Child,
        address: String,
    }

    impl Drop for Served {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn said(output: &Output) -> String {
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// What stands after `what: ` in the output.
    fn told(output: &Output, what: &str) -> String {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {what} in {text}{}", said(output))).to_owned()
    }

    impl Tokens {
        fn new(test: &str) -> Option<Self> {
            let found = MODULES.iter().map(PathBuf::from).find(|path| path.exists());
            let Some(softhsm) = found else {
                println!("SKIPPED: {test}: softhsm2 is missing");
                return None;
            };
            let world = World::new();
            secret(&world, "password", "seven small boats drift home\n");
            secret(&world, "wrong", "seven small boats drift away\n");
            secret(&world, "pin", "1234\n");
            Some(Self { world, module: softhsm.clone(), softhsm })
        }

        /// With the module that makes faults.
        fn faulty(test: &str) -> Option<Self> {
            let mut tokens = Self::new(test)?;
            tokens.module = tokens.world.path("faulty.so");
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/faulty_token.c");
            let built = Command::new("cc")
                .args(["-shared", "-fPIC", "-o"])
                .arg(&tokens.module)
                .args([source, "-ldl"])
                .output();
            let Ok(built) = built else {
                println!("SKIPPED: {test}: cc is missing");
                return None;
            };
            assert!(built.status.success(), "{}", said(&built));
            tokens.fault("");
            fs::write(tokens.world.path("logins"), "").unwrap();
            Some(tokens)
        }

        fn fault(&self, mode: &str) {
            fs::write(self.world.path("mode.new"), mode).unwrap();
            fs::rename(self.world.path("mode.new"), self.world.path("mode")).unwrap();
        }

        fn program(&self, name: &str, site: &str, arguments: &[&str]) -> Command {
            let mut command = self.world.program(name, arguments);
            command
                .env("SOFTHSM2_CONF", self.world.path(&format!("{site}.conf")))
                .env("FAULTY_MODULE", &self.softhsm)
                .env("FAULTY_MODE", self.world.path("mode"))
                .env("FAULTY_LOGINS", self.world.path("logins"));
            command
        }

        fn vault(&self, site: &str, arguments: &[&str]) -> Output {
            self.program(env!("CARGO_BIN_EXE_amberfs-vault"), site, arguments).output().unwrap()
        }

        fn done(&self, site: &str, arguments: &[&str]) -> Output {
            let output = self.vault(site, arguments);
            assert!(output.status.success(), "{arguments:?}: {}", said(&output));
            output
        }

        fn refused(&self, site: &str, arguments: &[&str], code: i32, why: &str) {
            let output = self.vault(site, arguments);
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
            assert!(said(&output).contains(why), "{}", said(&output));
        }

        /// Makes a token for a site.
        fn token(&self, site: &str) {
            let folder = self.world.path(&format!("{site}.tokens"));
            fs::create_dir(&folder).unwrap();
            let conf = format!("directories.tokendir = {}\n", folder.display());
            fs::write(self.world.path(&format!("{site}.conf")), conf).unwrap();
            let new = ["--init-token", "--free", "--label", site, "--so-pin", "12345678"];
            let made = self
                .program("softhsm2-util", site, &[&new[..], &["--pin", "1234"]].concat())
                .output()
                .unwrap();
            assert!(made.status.success(), "{}", said(&made));
        }

        /// Makes a token, and in it the keys of a vault of the same name.
        fn init(&self, site: &str, more: &[&str]) -> Output {
            self.token(site);
            let mut arguments = vec!["init", site];
            arguments.extend(self.options(site));
            arguments.extend(more);
            self.done(site, &arguments)
        }

        fn options<'a>(&'a self, site: &'a str) -> [&'a str; 6] {
            let module = self.module.to_str().unwrap();
            ["--pkcs11-module", module, "--token-label", site, "--pin-file", "pin"]
        }

        fn serve(&self, site: &str) -> Served {
            let log = fs::File::create(self.world.path(&format!("{site}.log"))).unwrap();
            let mut child = self
                .program(
                    env!("CARGO_BIN_EXE_amberfs-vault"),
                    site,
                    &[
                        "serve",
                        site,
                        "--listen",
                        "127.0.0.1:0",
                        "--no-delays",
                        "--registrations",
                        "1000000",
                    ],
                )
                .stdout(Stdio::piped())
                .stderr(log)
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            let address = line.trim().strip_prefix("vault address: ");
            let address = address.unwrap_or_else(|| panic!("{}", self.log(site))).to_owned();
            Served { child, address }
        }

        fn log(&self, site: &str) -> String {
            fs::read_to_string(self.world.path(&format!("{site}.log"))).unwrap()
        }

        fn register(&self, vault: &Served) {
            let mut arguments = vec!["init", "repo", "--vault", &vault.address];
            arguments.extend(["--key-out", "key", "--password-file", "password"]);
            arguments.extend(COST);
            self.world.ok(&arguments);
        }

        /// Opens by password at the vault; the exit code and what was said.
        fn open(&self, vault: &Served, password: &str) -> (i32, String) {
            let mut arguments = BY_PASSWORD.to_vec();
            arguments[3] = password;
            arguments.extend(["--vault", &vault.address]);
            let output = self.world.run(&arguments);
            (output.status.code().unwrap(), said(&output))
        }

        /// Opens with the right password, and no failure was counted before.
        fn opens_unharmed(&self, vault: &Served) {
            assert_eq!(self.open(vault, "password"), (0, String::new()));
        }
    }

    /// One site of a vault as an organisation runs it.
    #[cfg(all(feature = "etcd", feature = "fuzzing"))]
    #[test]
    fn load_on_a_site_with_its_keys_in_a_token_and_its_ledger_in_etcd() {
        use crate::fleet::{Fleet, has_etcd};
        use amberfs::io::DirFolder;
        use amberfs::vault::config::{Config, LedgerAt};
        if !has_etcd("load on a token and etcd") {
            return;
        }
        let Some(tokens) = Tokens::new("load on a token") else { return };
        let mut fleet = Fleet::new(false);
        crate::fleet_faults::registered(&mut fleet);
        tokens.init("vault", &[]);
        let folder = DirFolder::new(tokens.world.path("vault"));
        let mut config = Config::load(&folder).unwrap();
        config.ledger = LedgerAt::Etcd(fleet.settings(0));
        config.store(&folder).unwrap();
        let vault = tokens.serve("vault");
        crate::load::load("keys in SoftHSM, five etcd members", &vault.address.parse().unwrap());
    }

    #[test]
    fn a_password_opens_by_keys_in_a_token() {
        let Some(tokens) = Tokens::new("a password by a token") else { return };
        let made = tokens.init("vault", &[]);
        let files: Vec<_> = tokens
            .world
            .files("vault")
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(files, ["ledger", "manifest", "mark", "root.key", "vault.toml"]);
        let vault = tokens.serve("vault");
        tokens.register(&vault);
        tokens.opens_unharmed(&vault);
        assert_eq!(tokens.open(&vault, "wrong").0, 12);
        drop(vault);
        let status = tokens.done("vault", &["status", "vault"]);
        assert_eq!(told(&status, "keys"), "in an HSM");
        assert_eq!(told(&status, "keys fingerprint"), told(&made, "keys fingerprint"));
        assert_eq!(told(&status, "fingerprint"), told(&made, "vault fingerprint"));
        assert!(told(&status, "records").starts_with("1 active"));
        let vault = tokens.serve("vault");
        let (code, said) = tokens.open(&vault, "password");
        assert!(code == 0 && said.contains("1 of 50 failed"), "{code} {said}");
        assert!(!tokens.log("vault").contains("file"), "{}", tokens.log("vault"));
        // Never exportable: there is nothing to seal, and no way to export.
        let seal = tokens.done("vault", &["ceremony", "seal", "vault"]);
        assert!(self::said(&seal).contains("0 keys were replaced"), "{}", self::said(&seal));
    }

    /// A service that starts again and again would lock the token.
    #[test]
    fn a_refused_pin_is_tried_once_and_has_its_own_exit_code() {
        let Some(tokens) = Tokens::faulty("a refused PIN") else { return };
        tokens.init("vault", &[]);
        let logins = || fs::read_to_string(tokens.world.path("logins")).unwrap();
        fs::write(tokens.world.path("logins"), "").unwrap();
        let serve = ["serve", "vault", "--listen", "127.0.0.1:0"];
        secret(&tokens.world, "pin", "4321\n");
        tokens.refused("vault", &serve, 12, "refused the PIN");
        assert_eq!(logins(), "a0\n");
        secret(&tokens.world, "pin", "1234\n");
        tokens.fault("locked");
        tokens.refused("vault", &serve, 12, "has locked its PIN");
        assert_eq!(logins(), "a0\na4\n");
        tokens.fault("");
        fs::set_permissions(
            tokens.world.path("pin"),
            std::os::unix::fs::PermissionsExt::from_mode(0o640),
        )
        .unwrap();
        tokens.refused("vault", &serve, 1, "can be read by others");
        assert_eq!(logins(), "a0\na4\n");
    }

    /// A unit's PIN comes from systemd.
    #[test]
    fn the_pin_comes_from_a_credential_too() {
        let Some(tokens) = Tokens::new("a PIN by credential") else { return };
        tokens.init("vault", &[]);
        let config = tokens.world.path("vault/vault.toml");
        let text = fs::read_to_string(&config).unwrap();
        let without: Vec<_> = text.lines().filter(|line| !line.starts_with("pin_file")).collect();
        assert_eq!(without.len() + 1, text.lines().count());
        fs::write(&config, without.join("\n")).unwrap();
        tokens.refused("vault", &["status", "vault"], 1, "LoadCredential=");
        fs::create_dir(tokens.world.path("credentials")).unwrap();
        fs::rename(tokens.world.path("pin"), tokens.world.path("credentials/amberfs-vault.pin"))
            .unwrap();
        let status = tokens
            .program(env!("CARGO_BIN_EXE_amberfs-vault"), "vault", &["status", "vault"])
            .env("CREDENTIALS_DIRECTORY", tokens.world.path("credentials"))
            .output()
            .unwrap();
        assert_eq!(told(&status, "keys"), "in an HSM");
        fs::write(&config, text.replace("pin_file", "pinfile")).unwrap();
        tokens.refused("vault", &["status", "vault"], 1, "pinfile");
    }

    #[test]
    fn a_token_that_is_slow_reset_or_away_costs_no_try() {
        let Some(tokens) = Tokens::faulty("a token with faults") else { return };
        tokens.init("vault", &[]);
        let config = tokens.world.path("vault/vault.toml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("deadline_ms = 5000", "deadline_ms = 300")).unwrap();
        let vault = tokens.serve("vault");
        tokens.register(&vault);
        tokens.opens_unharmed(&vault);
        for (mode, why) in
            [("slow 1000", "did not answer within 300 ms"), ("removed", "no token labelled")]
        {
            tokens.fault(mode);
            let (code, said) = tokens.open(&vault, "password");
            assert!([14, 15].contains(&code), "{mode}: {code} {said}");
            assert!(tokens.log("vault").contains(why), "{mode}: {}", tokens.log("vault"));
            tokens.fault("");
            // The calls that hang have to come back first.
            std::thread::sleep(Duration::from_millis(1500));
            tokens.opens_unharmed(&vault);
        }
        // A token that has lost its sessions is met anew, unnoticed.
        for _ in 0..4 {
            tokens.fault("reset");
            tokens.opens_unharmed(&vault);
            assert_eq!(fs::read_to_string(tokens.world.path("mode")).unwrap(), "", "it was met");
        }
        assert_eq!(tokens.open(&vault, "wrong").0, 12);
    }

    /// Some libraries find a token that is back only in a new process.
    #[test]
    fn a_vault_whose_token_stays_away_ends() {
        let Some(tokens) = Tokens::new("a token that is taken away") else { return };
        tokens.init("vault", &[]);
        let mut vault = tokens.serve("vault");
        tokens.register(&vault);
        let mut inside = fs::read_dir(tokens.world.path("vault.tokens")).unwrap();
        let (here, away) = (inside.next().unwrap().unwrap().path(), tokens.world.path("away"));
        fs::rename(&here, &away).unwrap();
        let (code, said) = tokens.open(&vault, "password");
        assert!([14, 15].contains(&code), "{code} {said}");
        let since = Instant::now();
        let status = loop {
            if let Some(status) = vault.child.try_wait().unwrap() {
                break status;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "{}", tokens.log("vault"));
            std::thread::sleep(Duration::from_millis(100));
        };
        assert_eq!(status.code(), Some(1));
        assert!(tokens.log("vault").contains("ledger or keys failed"), "{}", tokens.log("vault"));
        let serve = ["serve", "vault", "--listen", "127.0.0.1:0"];
        tokens.refused("vault", &serve, 1, "no token labelled \"vault\"");
        fs::rename(&away, &here).unwrap();
        let vault = tokens.serve("vault");
        tokens.opens_unharmed(&vault);
    }

    #[test]
    fn a_ceremony_copies_the_keys_to_a_second_site_and_locks_them() {
        let Some(tokens) = Tokens::new("ceremony") else { return };
        let world = &tokens.world;
        let made = tokens.init("first", &["--for-ceremony", "--site-name", "north"]);
        let (root, keys) = (told(&made, "vault fingerprint"), told(&made, "keys fingerprint"));
        let status = tokens.done("first", &["status", "first"]);
        assert_eq!(told(&status, "keys"), "in an HSM; a ceremony is not done");

        tokens.token("second");
        let mut request = vec!["ceremony", "request", "second", "--manifest", "first/manifest"];
        request.extend(tokens.options("second"));
        let with = |root, name| [&request[..], &["--vault", root, "--site-name", name]].concat();
        let (other, none) = ("00".repeat(32), "12");
        tokens.refused("second", &with(&other, "south"), 1, "not the pinned");
        tokens.refused("second", &with(none, "south"), 2, "64 hexadecimal digits");
        tokens.refused("second", &with(&root, "north"), 1, "has a site of this name");
        let asked = tokens.done("second", &with(&root, "south"));
        let asked = told(&asked, "request fingerprint");
        fs::copy(world.path("second/request"), world.path("request")).unwrap();

        let export = ["ceremony", "export", "first", "request", "--out", "parcel"];
        let said = |print| [&export[..], &["--fingerprint", print]].concat();
        let forged = "0000 ".repeat(10);
        tokens.refused("first", &said(&forged), 1, "not the file that was read aloud");
        assert!(!world.path("parcel").exists());
        let exported = tokens.done("first", &said(&asked));
        assert_eq!(told(&exported, "keys fingerprint"), keys);
        let parcel = told(&exported, "parcel fingerprint");

        let import = ["ceremony", "import", "second"];
        let with = |file, print| [&import[..], &[file, "--fingerprint", print]].concat();
        tokens.refused("second", &with("parcel", &forged), 1, "not the file that was read aloud");
        // Whoever can also forge the voice gets no farther with damage.
        let mut damaged = fs::read(world.path("parcel")).unwrap();
        let at = damaged.len() / 3;
        damaged[at] ^= 1;
        fs::write(world.path("damaged"), &damaged).unwrap();
        let print = amberfs::vault::hsm::transfer::Aloud::of(&damaged).to_string();
        tokens.refused("second", &with("damaged", &print), 1, "");
        let imported = tokens.done("second", &with("parcel", &parcel));
        assert_eq!(told(&imported, "keys fingerprint"), keys);
        tokens.refused("second", &with("parcel", &parcel), 1, "has its keys already");
        // Two sites that count apart would give twice the tries.
        let apart = "they need one ledger in etcd";
        tokens.refused("second", &["status", "second"], 1, apart);

        let sealed = tokens.done("first", &["ceremony", "seal", "first"]);
        assert_eq!(told(&sealed, "keys fingerprint"), keys);
        fs::remove_file(world.path("parcel")).unwrap();
        tokens.refused("first", &said(&asked), 1, "cannot leave this site's token");
        assert!(!world.path("parcel").exists());
        tokens.refused("first", &["status", "first"], 1, apart);

        // New keys, a year later; the lookup key stays where it is.
        let add = ["ceremony", "add-generation", "first", "--for-ceremony"];
        assert_eq!(told(&tokens.done("first", &add), "generation"), "2");
        let asked = tokens.done("second", &["ceremony", "request-again", "second"]);
        let asked = told(&asked, "request fingerprint");
        fs::copy(world.path("second/request"), world.path("request")).unwrap();
        let exported = tokens.done("first", &said(&asked));
        let parcel = told(&exported, "parcel fingerprint");
        let later = told(&exported, "keys fingerprint");
        assert_ne!(later, keys);
        let imported = tokens.done("second", &with("parcel", &parcel));
        assert_eq!(told(&imported, "keys fingerprint"), later);
        tokens.refused("second", &with("parcel", &parcel), 1, "has its keys already");
        tokens.done("second", &["install-manifest", "second", "first/manifest"]);
        // Its keys are the manifest's: only the ledger is missing.
        tokens.refused("second", &["status", "second"], 1, apart);
        let sealed = tokens.done("first", &["ceremony", "seal", "first"]);
        assert_eq!(told(&sealed, "keys fingerprint"), later);
    }

    #[test]
    fn a_token_gets_new_keys_and_loses_the_old_ones() {
        let Some(tokens) = Tokens::new("new keys in a token") else { return };
        tokens.init("vault", &[]);
        let vault = tokens.serve("vault");
        tokens.register(&vault);
        drop(vault);
        assert!(said(&tokens.vault("vault", &["generation", "add", "vault"])).contains("ceremony"));
        let added = tokens.done("vault", &["ceremony", "add-generation", "vault"]);
        assert_eq!(told(&added, "generation"), "2");
        let vault = tokens.serve("vault");
        let (code, text) = tokens.open(&vault, "password");
        assert!(code == 0 && text.contains("new: keys of generation 2"), "{text}");
        secret(&tokens.world, "new", "eleven quiet lamps by the water\n");
        let mut passwd = vec!["passwd", "repo", "--password-file", "password"];
        passwd.extend(["--new-password-file", "new", "--vault", &vault.address]);
        passwd.extend(COST);
        assert!(tokens.world.run(&passwd).status.success());
        let sealed = tokens.done("vault", &["generation", "reseal", "vault"]);
        assert!(String::from_utf8_lossy(&sealed.stdout).contains("outdated: 0"));
        drop(vault);
        tokens.done("vault", &["generation", "drop", "vault", "1"]);
        let keys = tokens.done("vault", &["status", "vault"]);
        assert_eq!(told(&keys, "manifest epoch"), "3");
        let vault = tokens.serve("vault");
        assert_eq!(tokens.open(&vault, "new").0, 0);
    }
}
