//! The files of the deployment are valid, and agree with each other and with the crate.

use std::fs::{copy, create_dir, read_dir, read_to_string};
use std::process::Command;

use crate::support::in_repository;
use crate::support::peers::node::Node;
use crate::support::peers::prometheus::PrometheusTools;
use crate::support::peers::session_buddy::SessionBuddy;
use crate::support::program::run;
use serde_json::Value;

const YAML_TO_JSON: &str = "import json, sys; from ruamel.yaml import YAML; \
                            json.dump(list(YAML(typ='safe').load_all(sys.stdin)), sys.stdout)";

fn read(path: &str) -> String {
    read_to_string(in_repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The only document of a file.
fn yaml(session_buddy: &SessionBuddy, path: &str) -> Value {
    let mut documents = yaml_documents(session_buddy, path);
    assert_eq!(documents.len(), 1, "{path}");
    documents.remove(0)
}

fn yaml_documents(session_buddy: &SessionBuddy, path: &str) -> Vec<Value> {
    parse_yaml(session_buddy, &read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn parse_yaml(session_buddy: &SessionBuddy, text: &str) -> Result<Vec<Value>, String> {
    let ended = run(session_buddy.python().args(["-c", YAML_TO_JSON]), text);
    if ended.is_success() { Ok(serde_json::from_str(&ended.stdout).expect("JSON")) } else { Err(ended.stderr) }
}

/// Returns a manifest with its commented items in force: indented comments that hold an item of a list, or a line of one.
fn uncommented(manifest: &str) -> String {
    let line = |line: &str| match line.split_once("# ") {
        Some((indent, item))
            if !indent.is_empty() && indent.trim().is_empty() && (item.starts_with("- ") || item.starts_with("  ")) =>
        {
            format!("{indent}{item}\n")
        }
        _ => format!("{line}\n"),
    };
    manifest.lines().map(line).collect()
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

const MANIFESTS: [&str; 3] = ["session-buddy.yml", "pod-monitor.yml", "prometheus-rule.yml"];

/// What is found in each of the manifests.
fn faults(node: &Node, manifests: &[Value]) -> Vec<Vec<String>> {
    let check = in_repository("tests/programs/node/check_manifests.mjs");
    let ended = run(node.command().arg(check).arg(&node.directory), &Value::from(manifests).to_string());
    assert!(ended.is_success(), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).expect("a list of faults for each")
}

#[test]
fn kubernetes_manifests_meet_their_schemas_and_what_does_not_is_found() {
    let (Some(session_buddy), Some(node)) = (SessionBuddy::find_or_skip(), Node::find_or_skip()) else { return };
    let read = |file: &&str| yaml_documents(&session_buddy, &format!("deploy/kubernetes/{file}"));
    let manifests: Vec<Value> = MANIFESTS.iter().flat_map(read).collect();
    let of_kind = |kind: &str| manifests.iter().find(|manifest| manifest["kind"] == kind).expect(kind);
    let pod = "/spec/template/spec";
    let spoilt: [(&str, String, Value); 5] = [
        ("Service", "/spec/ports/0/port".to_owned(), "metrics".into()),
        ("StatefulSet", format!("{pod}/securityContext/runAsNonRoot"), "yes".into()),
        (
            "StatefulSet",
            format!("{pod}/containers/1/livenessProbe/httpGet"),
            serde_json::json!({"pth": "/", "port": 1}),
        ),
        ("PodMonitor", "/spec/podMetricsEndpoints/0/interval".to_owned(), "15 seconds".into()),
        ("PrometheusRule", "/spec/groups/0/rules/0".to_owned(), serde_json::json!({"expr": "1", "alrt": "A"})),
    ];
    let spoil = |(kind, place, value): &(&str, String, Value)| {
        let mut manifest = of_kind(kind).clone();
        *manifest.pointer_mut(place).unwrap_or_else(|| panic!("no {place}")) = value.clone();
        manifest
    };
    let faults = faults(&node, &manifests.iter().cloned().chain(spoilt.iter().map(spoil)).collect::<Vec<_>>());
    let (sound, found) = faults.split_at(manifests.len());
    assert!(sound.iter().all(Vec::is_empty), "{sound:?}");
    for ((kind, place, _), faults) in spoilt.iter().zip(found) {
        assert!(!faults.is_empty(), "{kind} {place}");
    }

    let pod = &of_kind("StatefulSet")["spec"]["template"]["spec"];
    let security = &pod["securityContext"];
    assert_eq!(
        (&security["runAsNonRoot"], &security["seccompProfile"]["type"]),
        (&true.into(), &"RuntimeDefault".into())
    );
    assert_eq!((&security["fsGroup"], &security["runAsGroup"]), (&security["runAsUser"], &security["runAsUser"]));
    for container in pod["containers"].as_array().unwrap() {
        let security = &container["securityContext"];
        assert_eq!(
            (&security["readOnlyRootFilesystem"], &security["capabilities"]["drop"][0]),
            (&true.into(), &"ALL".into())
        );
    }
    // As the how-to says: both containers know the secret once the commented lines apply.
    let with_tokens =
        parse_yaml(&session_buddy, &uncommented(&self::read("deploy/kubernetes/session-buddy.yml"))).unwrap();
    assert_eq!(self::faults(&node, &with_tokens), vec![Vec::<String>::new(); with_tokens.len()]);
    let set = with_tokens.iter().find(|manifest| manifest["kind"] == "StatefulSet").expect("a StatefulSet");
    let pod_with_tokens = &set["spec"]["template"]["spec"];
    for container in pod_with_tokens["containers"].as_array().unwrap() {
        let mounts = container["volumeMounts"].as_array().unwrap();
        assert!(mounts.iter().any(|mount| mount["name"] == "credentials"), "{container}");
        assert!(container.to_string().contains("/etc/session-buddy/jwt-secret"), "{container}");
    }
    let server = pod_with_tokens["containers"][0]["env"].as_array().unwrap();
    assert!(
        server.iter().any(|variable| variable["name"] == "SESSION_BUDDY_AUTH_ENABLED" && variable["value"] == "true")
    );
    let server = strings(&pod["containers"][0]["args"]);
    assert!(server.windows(2).any(|pair| pair == ["--host", "127.0.0.1"]), "{server:?}");
    // The same flags as with compose, but for the host of the server.
    let compose = yaml(&session_buddy, "docker-compose.yml");
    let composed = strings(&compose["services"]["bridge"]["command"]);
    let composed: Vec<_> = composed.iter().map(|flag| flag.replace("//session-buddy:", "//localhost:")).collect();
    assert_eq!(strings(&pod["containers"][1]["args"]), composed);
    // An alert expects the job of prometheus.yml.
    let monitor = &of_kind("PodMonitor")["spec"];
    let job = monitor["jobLabel"].as_str().expect("a label");
    assert_eq!(of_kind("StatefulSet")["spec"]["template"]["metadata"]["labels"][job], "session-buddy");
    assert_eq!(monitor["podMetricsEndpoints"][0]["port"], pod["containers"][1]["ports"][0]["name"]);
}

#[test]
fn the_prometheus_rule_has_every_rule_that_is_deployed() {
    let folder = tempfile::tempdir().unwrap();
    for directory in ["kubernetes", "prometheus"] {
        create_dir(folder.path().join(directory)).unwrap();
        for file in read_dir(in_repository("deploy").join(directory)).unwrap() {
            let file = file.unwrap();
            copy(file.path(), folder.path().join(directory).join(file.file_name())).unwrap();
        }
    }
    let generated = run(&mut Command::new(folder.path().join("kubernetes/generate")), "");
    assert!(generated.is_success(), "{}", generated.stderr);
    let generated = read_to_string(folder.path().join("kubernetes/prometheus-rule.yml")).unwrap();
    assert_eq!(read("deploy/kubernetes/prometheus-rule.yml"), generated, "run deploy/kubernetes/generate");
    for file in ["rules", "alerts", "cost"] {
        let rules = read(&format!("deploy/prometheus/{file}.yml"));
        for line in rules.lines().filter(|line| line.contains("- record:") || line.contains("- alert:")) {
            assert!(generated.contains(line), "{line}");
        }
    }
}

#[test]
fn addresses_agree_across_files() {
    let Some(session_buddy) = SessionBuddy::find_or_skip() else { return };
    let compose = yaml(&session_buddy, "docker-compose.yml");
    let scrape = yaml(&session_buddy, "deploy/prometheus/prometheus.yml");
    let services = &compose["services"];

    let bridge_image = read("Dockerfile");
    assert!(bridge_image.contains("ENV SESSION_BUDDY_BRIDGE_WEB_DEFAULT_ADDRESS=0.0.0.0:9090\n"));
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
    for file in ["docker-compose.yml", "docs/how-to/push.md"] {
        assert!(read(file).contains(command), "{file} does not say how");
    }
    assert_eq!(strings(&services["victoriametrics"]["ports"]), ["127.0.0.1:8428:8428"]);
}

#[test]
fn the_bridges_image_is_built_with_the_crates_own_rust() {
    let version = env!("CARGO_PKG_RUST_VERSION");
    assert!(read("Dockerfile").contains(&format!("\nFROM rust:{version}-")), "not built with Rust {version}");
}
