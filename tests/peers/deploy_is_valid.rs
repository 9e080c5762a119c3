//! The files of the deployment are valid, and agree with each other and with the crate.

use std::fs::read_to_string;

use crate::support::in_repository;
use crate::support::peers::prometheus::PrometheusTools;
use crate::support::peers::session_buddy::SessionBuddy;
use crate::support::program::run;
use serde_json::Value;

const YAML_TO_JSON: &str = "import json, sys; from ruamel.yaml import YAML; \
                            json.dump(YAML(typ='safe').load(sys.stdin), sys.stdout)";

fn read(path: &str) -> String {
    read_to_string(in_repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(session_buddy: &SessionBuddy, path: &str) -> Value {
    let ended = run(session_buddy.python().args(["-c", YAML_TO_JSON]), &read(path));
    assert!(ended.is_success(), "{path}: {}", ended.stderr);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

/// The words of the first line that starts with `instruction`, which is in exec form.
fn words(dockerfile: &str, instruction: &str) -> Vec<String> {
    let rest = dockerfile.lines().find_map(|line| line.strip_prefix(instruction)).expect(instruction);
    serde_json::from_str(rest).expect("an array of strings")
}

fn strings(array: &Value) -> Vec<&str> {
    array.as_array().expect("a list").iter().map(|item| item.as_str().expect("a string")).collect()
}

#[test]
fn promtool_accepts_the_configuration_and_the_rules_give_their_numbers() {
    let Some(tools) = PrometheusTools::find_or_skip() else { return };
    for (check, file) in [
        (["check", "config"], "prometheus.yml"),
        (["check", "rules"], "rules.yml"),
        (["test", "rules"], "rules_test.yml"),
        (["check", "rules"], "alerts.yml"),
        (["test", "rules"], "alerts_test.yml"),
        (["check", "rules"], "cost.yml"),
        (["test", "rules"], "cost_test.yml"),
    ] {
        let file = in_repository("deploy/prometheus").join(file).display().to_string();
        let ended = tools.promtool(check.into_iter().chain([file.as_str()]), "");
        assert!(ended.is_success(), "{check:?} {file}: {}", ended.printed());
    }
}

#[test]
fn every_alert_has_a_case_that_fires_one_that_is_quiet_and_a_runbook() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let alerts = yaml(&session_buddy, "deploy/prometheus/alerts.yml");
    let cases = yaml(&session_buddy, "deploy/prometheus/alerts_test.yml");
    let cases = cases["tests"].as_array().unwrap().iter().flat_map(|case| case["promql_expr_test"].as_array().unwrap());
    let cases: Vec<(&str, bool)> = cases
        .map(|case| (case["expr"].as_str().unwrap(), !case["exp_samples"].as_array().unwrap().is_empty()))
        .collect();
    let groups = alerts["groups"].as_array().unwrap();
    let alerts: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        let name = alert["alert"].as_str().expect("a name");
        let firing = format!("ALERTS{{alertname=\"{name}\", alertstate=\"firing\"}}");
        for fires in [true, false] {
            assert!(cases.contains(&(&firing, fires)), "{name} has no case where firing is {fires}");
        }
        let runbook = alert["annotations"]["runbook"].as_str().expect("a runbook");
        assert!(runbook.len() > 80, "{name}: {runbook}");
        assert!(alert["annotations"]["summary"].is_string() && alert["labels"]["severity"].is_string(), "{name}");
    }
}

#[test]
fn the_compose_file_meets_its_schema() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let mut check = session_buddy.python();
    check.args(["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]);
    let ended = run(check.arg(in_repository("docker-compose.yml")), "");
    assert!(ended.is_success(), "{}", ended.printed());
}

#[test]
fn addresses_agree_across_files() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let compose = yaml(&session_buddy, "docker-compose.yml");
    let scrape = yaml(&session_buddy, "deploy/prometheus/prometheus.yml");
    let services = &compose["services"];

    let bridge_image = read("Dockerfile");
    assert!(bridge_image.contains("ENV SESSION_BUDDY_BRIDGE_WEB_LISTEN_ADDRESS=0.0.0.0:9090\n"));
    assert!(bridge_image.contains("ENV SESSION_BUDDY_BRIDGE_STATE_PATH=/var/lib/session-buddy-bridge/state.db\n"));
    let bridge_volumes = strings(&services["bridge"]["volumes"]);
    assert_eq!(bridge_volumes[0], "bridge-state:/var/lib/session-buddy-bridge");
    assert_eq!(words(&bridge_image, "    CMD ")[1..], ["healthcheck", "--healthcheck.pid=1"]);
    assert_eq!(strings(&services["bridge"]["ports"]), ["127.0.0.1:9090:9090"]);
    assert_eq!(strings(&scrape["scrape_configs"][0]["static_configs"][0]["targets"]), ["bridge:9090"]);

    let serving = words(&read("deploy/session-buddy/Dockerfile"), "CMD ");
    assert_eq!(serving[..5], ["serve", "--host", "0.0.0.0", "--port", "8765"]);
    assert_eq!(strings(&services["session-buddy"]["ports"]), ["127.0.0.1:8765:8765"]);
    let command = [
        "--feed.url=ws://session-buddy:8765",
        "--feed.skills-db=/var/lib/session-buddy/skills.db",
        "--web.zero-first=20s",
    ];
    assert_eq!(strings(&services["bridge"]["command"]), command);
    // Between one and two intervals: each Prometheus sees the 0, and values are not held back for longer than they must be.
    assert_eq!(scrape["global"]["scrape_interval"], "15s");
    assert!(
        read("deploy/systemd/session-buddy-bridge.default").contains("\n#SESSION_BUDDY_BRIDGE_WEB_ZERO_FIRST=20s\n")
    );

    let mount = strings(&services["session-buddy"]["volumes"])[0];
    let (directory, file) = serving[6].rsplit_once('/').expect("a path");
    assert_eq!((serving[5].as_str(), file), ("--database", "skills.db"));
    assert!(mount.ends_with(&format!(":{directory}")), "{mount} does not hold {directory}");
    assert_eq!(bridge_volumes[1..], [format!("{mount}:ro")], "the bridge reads the server's database");

    for (name, service) in services.as_object().expect("services") {
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        for port in strings(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name} publishes {port} beyond this host");
        }
        if let Some(context) = service["build"].as_str().or(service["build"]["context"].as_str()) {
            let dockerfile = in_repository(context).join("Dockerfile");
            let instructions = read_to_string(&dockerfile).expect("a service's Dockerfile");
            assert!(instructions.contains("\nHEALTHCHECK "), "{} has no health check", dockerfile.display());
        } else {
            assert!(service["healthcheck"].is_object(), "{name} has no health check");
        }
    }
    assert_eq!(services["bridge"]["read_only"], true);
    let argument = &services["bridge"]["build"]["args"]["REVISION"];
    assert_eq!(argument, "${REVISION:-}", "the image does not know the commit that it is built from");
}

#[test]
fn the_profile_push_has_a_receiver_and_the_bridge_pushes_only_where_it_is_told_to() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let compose = yaml(&session_buddy, "docker-compose.yml");
    let services = &compose["services"];
    let of_profile = services.as_object().unwrap().iter().filter(|(_, service)| !service["profiles"].is_null());
    let of_profile: Vec<_> = of_profile.map(|(name, service)| (name.as_str(), strings(&service["profiles"]))).collect();
    assert_eq!(of_profile, [("victoriametrics", vec!["push"])]);

    let bridge = &services["bridge"];
    assert_eq!(bridge["environment"]["SESSION_BUDDY_BRIDGE_PUSH_URL"], "${SESSION_BUDDY_PUSH_URL:-}");
    // The label `instance` and the owner of the queue: the same at each start.
    assert_eq!(bridge["hostname"], "${SESSION_BUDDY_INSTANCE:-session-buddy-bridge}");
    let command =
        "SESSION_BUDDY_PUSH_URL=http://victoriametrics:8428/api/v1/write docker compose --profile push up --build";
    for file in ["docker-compose.yml", "docs/push.md"] {
        assert!(read(file).contains(command), "{file} does not say how");
    }
    assert_eq!(strings(&services["victoriametrics"]["ports"]), ["127.0.0.1:8428:8428"]);
}

#[test]
fn the_bridges_image_is_built_with_the_crates_own_rust() {
    let version = env!("CARGO_PKG_RUST_VERSION");
    assert!(read("Dockerfile").contains(&format!("\nFROM rust:{version}-")), "not built with Rust {version}");
}
