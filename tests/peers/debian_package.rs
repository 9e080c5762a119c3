//! The Debian package satisfies lintian, and on a minimal Debian machine it is a service that reloads, is restarted when it hangs,
//! continues its counts after an upgrade, and leaves nothing behind when it is purged.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::eventually;
use crate::support::peers::containers::{Containers, Machine, copy_repository, strip_program};
use crate::support::peers::{found_or_skip, peers_directory};
use crate::support::program::{Ended, run_within};
use crate::support::scrape::Scrape;

/// For so long a package may be built or checked, on a machine that does other things, too.
const BUILD_PATIENCE: Duration = Duration::from_secs(120);

/// The program to test in packages of several versions, which `deploy/deb/build` makes of a copy of the repository.
struct Packages {
    repository: TempDir,
    cargo_deb: PathBuf,
}

impl Packages {
    fn find_or_skip() -> Option<Self> {
        let cargo_deb = peers_directory().join("cargo-deb/bin");
        let missing = || format!("no cargo-deb in {}: run .ci/install-peers", cargo_deb.display());
        found_or_skip(cargo_deb.join("cargo-deb").exists().then_some(()).ok_or_else(missing))?;
        let repository = TempDir::new().unwrap();
        copy_repository(repository.path());
        let programs = repository.path().join("target/dist");
        fs::create_dir_all(&programs).unwrap();
        strip_program(&programs.join("session-buddy-bridge"));
        Some(Self { repository, cargo_deb })
    }

    /// Builds the package of a version.
    fn build(&self, version: &str) -> PathBuf {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let paths = [self.cargo_deb.clone()].into_iter().chain(std::env::split_paths(&paths));
        let mut command = Command::new(self.repository.path().join("deploy/deb/build"));
        command
            .args(["--no-build", "--fast", "--deb-version", version])
            .env("PATH", std::env::join_paths(paths).unwrap())
            .env_remove("CARGO_TARGET_DIR");
        let ended = run_within(&mut command, "", BUILD_PATIENCE);
        assert!(ended.is_success(), "{}", ended.printed());
        let package = PathBuf::from(ended.stdout.lines().last().expect("the path of the package"));
        // The next build removes it from where it is.
        let kept = self.repository.path().join(package.file_name().expect("a name"));
        fs::rename(&package, &kept).unwrap_or_else(|error| panic!("{error}: {}", ended.printed()));
        kept
    }
}

#[test]
fn lintian_finds_no_errors_and_no_warnings() {
    let missing = |error| format!("no lintian ({error}): run .ci/install-peers");
    let found = Command::new("lintian").arg("--version").output().map(drop).map_err(missing);
    let Some(()) = found_or_skip(found) else { return };
    let Some(packages) = Packages::find_or_skip() else { return };
    let package = packages.build("0.1.0-1");
    let checked = |further: &[&str]| -> Ended {
        let mut command = Command::new("lintian");
        command.args(["--allow-root", "--fail-on", "error,warning"]).args(further).arg(&package);
        run_within(&mut command, "", BUILD_PATIENCE)
    };
    let ended = checked(&[]);
    assert!(ended.is_success(), "{}", ended.printed());
    // It is lintian that finds nothing: without the exceptions it finds them.
    let ended = checked(&["--no-override"]);
    assert!(!ended.is_success() && ended.stdout.contains("initial-upload-closes-no-bugs"), "{}", ended.printed());
}

/// The service on the machine.
struct Service<'a> {
    machine: Machine<'a>,
}

impl Service<'_> {
    fn install(&self, package: &Path) {
        self.machine.copy(package, "/root/package.deb");
        // Debian's frontend for changed configuration files would ask.
        self.machine.shell("DEBIAN_FRONTEND=noninteractive dpkg --install --force-confold /root/package.deb");
    }

    /// Returns a property of the unit.
    fn property(&self, name: &str) -> String {
        self.machine.shell(&format!("systemctl show session-buddy-bridge --property={name} --value")).trim().to_owned()
    }

    fn scrape(&self) -> Result<Scrape, String> {
        Scrape::parse(&self.machine.try_shell("wget -q -O - http://localhost:9090/metrics")?)
    }

    fn await_served(&self, count: u32, after: &str) {
        eventually(after, || match self.scrape()?.sum("skill_invocations_total") {
            served if served > f64::from(count) => panic!("{after}: {served} of {count} are served"),
            served if served == f64::from(count) => Ok(()),
            served => Err(format!("{served} of {count}")),
        });
    }

    /// Returns every path that a package or a service might make, and the users.
    fn files(&self) -> BTreeSet<String> {
        let find = "find /etc /home /opt /root /srv /usr /var -xdev -not -path '/var/log/*' -not -path '/var/lib/dpkg/*' \
                    -not -path '/var/lib/systemd/timers/*' -not -path '/var/tmp/*'; cat /etc/passwd /etc/group";
        self.machine.shell(find).lines().map(str::to_owned).collect()
    }
}

#[test]
fn the_service_reloads_is_restarted_is_upgraded_and_is_purged() {
    let Some(containers) = Containers::find_or_skip() else { return };
    let Some(packages) = Packages::find_or_skip() else { return };
    let (first, second) = (packages.build("0.1.0-1"), packages.build("0.1.0-2"));
    containers.compose(&["up", "--build", "--detach", "--wait", "--quiet-pull", "session-buddy"]);
    // Few skills: a feed lists ten.
    let drive = |count: &str| {
        let sample = ["metrics_server.py", "sample", "--count", count, "--skills", "5"];
        containers.compose(&[&["exec", "-T", "session-buddy", "python"], &sample[..]].concat());
    };
    let service = Service { machine: Machine::boot(&containers) };
    let machine = &service.machine;
    assert!(machine.try_shell("test -e /bin/kill || test -e /usr/bin/kill").is_err(), "a minimal system has no procps");
    // The administrator's own, which no package removes.
    machine.shell(
        "mkdir -p /etc/systemd/system/session-buddy-bridge.service.d && \
         printf '[Service]\\nWatchdogSec=3s\\n' >/etc/systemd/system/session-buddy-bridge.service.d/override.conf",
    );
    machine.copy(&first, "/root/package.deb");
    let before = service.files();

    service.install(&first);
    assert_eq!(machine.shell("systemctl is-active session-buddy-bridge").trim(), "active");
    assert_eq!(machine.shell("systemctl is-enabled session-buddy-bridge").trim(), "enabled");
    machine.shell(
        "printf 'feeds:\\n- url: ws://session-buddy:8765\\n' >/etc/default/session-buddy-bridge.yml && \
         echo SESSION_BUDDY_BRIDGE_CONFIG_FILE=/etc/default/session-buddy-bridge.yml >>/etc/default/session-buddy-bridge && \
         systemctl restart session-buddy-bridge",
    );
    eventually("the feed to be up", || {
        let up = service.scrape()?.sum("session_buddy_bridge_feed_up");
        if up == 1.0 { Ok(()) } else { Err(format!("session_buddy_bridge_feed_up {up}")) }
    });
    drive("40");
    service.await_served(40, "the first invocations to be served");

    let process = service.property("MainPID");
    machine.shell("systemctl reload session-buddy-bridge");
    eventually("the reload to be logged", || {
        let log = machine.shell("journalctl --unit=session-buddy-bridge --output=cat");
        if log.contains("configuration reloaded") { Ok(()) } else { Err(log) }
    });
    assert_eq!(service.property("MainPID"), process, "a reload restarts nothing");

    machine.shell("systemctl kill --signal=STOP session-buddy-bridge");
    eventually("the watchdog to restart the service", || {
        // In this order: the state may still be that of the process that hangs until the restart is counted.
        let (restarts, state) = (service.property("NRestarts"), service.property("ActiveState"));
        if restarts != "0" && state == "active" { Ok(()) } else { Err(format!("{state}, {restarts} restarts")) }
    });
    assert_eq!(service.property("NRestarts"), "1");
    assert_ne!(service.property("MainPID"), process);
    drive("30");
    service.await_served(70, "what was stored after the watchdog to be served");

    let process = service.property("MainPID");
    service.install(&second);
    assert_ne!(service.property("MainPID"), process, "an upgrade restarts the service");
    assert_eq!(machine.shell("dpkg-query --show --showformat='${Version}' session-buddy-bridge"), "0.1.0-2");
    service.await_served(70, "the counts to be kept over the upgrade");
    drive("20");
    service.await_served(90, "what was stored after the upgrade to be served");

    machine.shell("dpkg --remove session-buddy-bridge");
    machine
        .shell("test -s /var/lib/private/session-buddy-bridge/state.db && test -e /etc/default/session-buddy-bridge");
    machine.shell("dpkg --purge session-buddy-bridge && rm /etc/default/session-buddy-bridge.yml");
    let after = service.files();
    assert_eq!(before.difference(&after).collect::<Vec<_>>(), Vec::<&String>::new(), "nothing of others is removed");
    // systemd's own, of the first service with DynamicUser=.
    let left = after.difference(&before).filter(|path| *path != "/var/lib/private").collect::<Vec<_>>();
    assert_eq!(left, Vec::<&String>::new());
}
