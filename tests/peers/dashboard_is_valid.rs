//! The dashboard is what Grafana takes: its JSON agrees with the types that Grafana publishes.

use std::collections::BTreeSet;
use std::fs::read_to_string;

use crate::support::in_repository;
use crate::support::peers::node::Node;
use crate::support::program::run;
use serde_json::Value;

const DASHBOARD: &str = "deploy/grafana/dashboards/session-buddy.json";

fn dashboard() -> Value {
    serde_json::from_str(&read_to_string(in_repository(DASHBOARD)).unwrap()).expect("JSON")
}

/// What the compiler finds in each of the dashboards.
fn faults(node: &Node, dashboards: &[Value]) -> Vec<Vec<String>> {
    let check = in_repository("tests/programs/node/check_dashboard.mjs");
    let ended = run(node.command().arg(check).arg(&node.directory), &Value::from(dashboards).to_string());
    assert!(ended.is_success(), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).expect("a list of faults for each")
}

#[test]
fn it_agrees_with_the_types_and_what_does_not_is_found() {
    let Some(node) = Node::find_or_skip() else { return };
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
    let spoil = |(place, value): &(String, Value)| {
        let mut dashboard = dashboard();
        *dashboard.pointer_mut(place).unwrap_or_else(|| panic!("no {place}")) = value.clone();
        dashboard
    };
    let mut misspelt = dashboard();
    misspelt["panels"][1]["options"]["grahpMode"] = "none".into();
    let dashboards: Vec<Value> = [dashboard(), misspelt].into_iter().chain(spoilt.iter().map(spoil)).collect();

    let faults = faults(&node, &dashboards);
    assert_eq!(faults.len(), dashboards.len());
    assert_eq!(faults[0], Vec::<String>::new());
    let places = ["/panels/1/options/grahpMode"].into_iter().chain(spoilt.iter().map(|(place, _)| place.as_str()));
    for (place, faults) in places.zip(&faults[1..]) {
        assert_eq!(faults.len(), 1, "{place}: {faults:?}");
    }
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
}

/// What Grafana's types leave open: names that have to meet names elsewhere, and identifiers that it passes over in silence
/// where it does not know them.
#[test]
fn what_is_named_is_there() {
    let dashboard = dashboard();
    for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let targets = panel["targets"].as_array().unwrap();
        let mut columns: BTreeSet<String> = targets.iter().map(|target| text(&target["legendFormat"])).collect();
        for transformation in panel["transformations"].as_array().into_iter().flatten() {
            let options = &transformation["options"];
            match transformation["id"].as_str().unwrap() {
                "joinByField" => {
                    assert_eq!((&options["byField"], &options["mode"]), (&"skill_name".into(), &"outer".into()))
                }
                "organize" => {
                    let values: BTreeSet<String> =
                        targets.iter().map(|target| format!("Value #{}", target["refId"].as_str().unwrap())).collect();
                    let renamed = options["renameByName"].as_object().unwrap();
                    let of_values = renamed.keys().filter(|name| name.starts_with("Value"));
                    assert_eq!(of_values.cloned().collect::<BTreeSet<_>>(), values, "{title}");
                    columns.extend(renamed.values().map(text));
                }
                other => panic!("{title}: no transformation of this kind is known here: {other}"),
            }
        }
        let overrides = panel["fieldConfig"]["overrides"].as_array().unwrap();
        let mut units = vec![&panel["fieldConfig"]["defaults"]["unit"]];
        for one in overrides {
            assert_eq!(one["matcher"]["id"], "byName", "{title}");
            assert!(columns.contains(one["matcher"]["options"].as_str().unwrap()), "{title}: {one} is of no column");
            let properties = one["properties"].as_array().unwrap().iter();
            units.extend(properties.filter(|property| property["id"] == "unit").map(|property| &property["value"]));
        }
        let known = ["short", "percentunit", "s", "bytes", "ops", "opm", "cps", "currencyUSD"];
        for unit in units {
            assert!(
                unit.is_null() || known.contains(&unit.as_str().unwrap()),
                "{title}: no unit is known here: {unit}"
            );
        }
    }
}
