//! The dashboard is what Grafana takes: its JSON agrees with the types that Grafana publishes.

mod support;

use std::collections::BTreeSet;
use std::fs::read_to_string;

use serde_json::Value;
use support::peers::in_repository;
use support::peers::node::Node;
use support::peers::process::run;

const DASHBOARD: &str = "deploy/grafana/dashboards/session-buddy.json";

fn dashboard() -> Value {
    serde_json::from_str(&read_to_string(in_repository(DASHBOARD)).unwrap()).expect("JSON")
}

/// What the compiler minds, a line each.
fn faults(node: &Node, dashboard: &Value) -> Vec<String> {
    let check = in_repository("tests/peers/node/check_dashboard.mjs");
    let output = run(node.command().arg(check).arg(&node.directory), &dashboard.to_string());
    let faults: Vec<String> = String::from_utf8(output.stderr).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(output.status.success(), faults.is_empty(), "{faults:?}");
    faults
}

#[test]
fn it_agrees_with_the_types_and_what_does_not_is_found() {
    let Some(node) = Node::find_or_skip() else { return };
    assert_eq!(faults(&node, &dashboard()), Vec::<String>::new());

    let panel =
        |kind: &str| dashboard()["panels"].as_array().unwrap().iter().position(|panel| panel["type"] == kind).unwrap();
    let spoilt: [(String, Value); 6] = [
        ("/refresh".to_owned(), 10.into()),
        ("/templating/list/1/refresh".to_owned(), "never".into()),
        (format!("/panels/{}/options/colorMode", panel("stat")), "rainbow".into()),
        (format!("/panels/{}/options/yAxis", panel("heatmap")), "left".into()),
        (format!("/panels/{}/fieldConfig/defaults/custom/fillOpacity", panel("timeseries")), "8".into()),
        (format!("/panels/{}/targets/0/expr", panel("timeseries")), Value::Null),
    ];
    for (place, value) in spoilt {
        let mut dashboard = dashboard();
        *dashboard.pointer_mut(&place).unwrap_or_else(|| panic!("no {place}")) = value;
        assert_eq!(faults(&node, &dashboard).len(), 1, "{place}");
    }
    let mut misspelt = dashboard();
    misspelt["panels"][1]["options"]["grahpMode"] = "none".into();
    assert_eq!(faults(&node, &misspelt).len(), 1);
}

#[test]
fn panels_have_words_and_places_of_their_own() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        let is_row = panel["type"] == "row";
        assert!(is_row || panel["description"].as_str().is_some_and(|words| words.len() > 10), "{title} says nothing");
        let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title} is beyond the edge");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} lies on another");
            }
        }
    }
    let bottom = taken.iter().map(|(_, y)| y + 1).max().unwrap();
    assert_eq!(taken.len() as u64, 24 * bottom, "no room is wasted");
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    // Where compose provisions it.
    let compose = read_to_string(in_repository("docker-compose.yml")).unwrap();
    assert!(compose.contains("./deploy/grafana/dashboards:/var/lib/grafana-dashboards:ro\n"));
    let provider = read_to_string(in_repository("deploy/grafana/provisioning/dashboards/dashboards.yml")).unwrap();
    assert!(provider.contains("path: /var/lib/grafana-dashboards\n"));
}
