//! The files that provision Grafana have the documented fields and no others, and agree with the compose file and the dashboard.
//!
//! Grafana ignores a field that it does not know, so that a misspelt one would be found by nobody.

use std::fmt::Debug;
use std::fs;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::in_repository;

const SOURCES: &str = "deploy/grafana/provisioning/datasources/prometheus.yml";
const DASHBOARDS: &str = "deploy/grafana/provisioning/dashboards/dashboards.yml";

/// A file of `provisioning/datasources`, as far as Grafana's "Provision Grafana" documents it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "a schema: most fields are only checked for their type")]
struct DataSourceFile {
    api_version: u32,
    prune: Option<bool>,
    delete_datasources: Option<Vec<DeletedDataSource>>,
    datasources: Vec<DataSource>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "a schema")]
struct DeletedDataSource {
    name: String,
    org_id: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "a schema")]
struct DataSource {
    name: String,
    r#type: DataSourceType,
    access: Access,
    org_id: Option<u32>,
    uid: Option<String>,
    url: String,
    user: Option<String>,
    database: Option<String>,
    basic_auth: Option<bool>,
    basic_auth_user: Option<String>,
    with_credentials: Option<bool>,
    is_default: Option<bool>,
    json_data: PrometheusOptions,
    version: Option<u32>,
    editable: Option<bool>,
}

/// The only type of data source that the dashboard can query.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DataSourceType {
    Prometheus,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Access {
    Proxy,
    Direct,
}

/// `jsonData` of a Prometheus data source.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "a schema")]
struct PrometheusOptions {
    time_interval: String,
    query_timeout: Option<String>,
    http_method: Option<HttpMethod>,
    custom_query_parameters: Option<String>,
    manage_alerts: Option<bool>,
    disable_metrics_lookup: Option<bool>,
    incremental_querying: Option<bool>,
    incremental_query_overlap_window: Option<String>,
    prometheus_type: Option<String>,
    prometheus_version: Option<String>,
    cache_level: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum HttpMethod {
    Get,
    Post,
}

/// A file of `provisioning/dashboards`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DashboardFile {
    api_version: u32,
    providers: Vec<Provider>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "a schema")]
struct Provider {
    name: String,
    org_id: Option<u32>,
    folder: Option<String>,
    folder_uid: Option<String>,
    r#type: ProviderType,
    disable_deletion: Option<bool>,
    update_interval_seconds: Option<u32>,
    allow_ui_updates: Option<bool>,
    options: ProviderOptions,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProviderType {
    File,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "a schema")]
struct ProviderOptions {
    path: String,
    folders_from_files_structure: Option<bool>,
}

fn yaml(path: &str) -> Value {
    let text = fs::read_to_string(in_repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns `file` if it is valid. It is JSON first, whose types are not converted to those of the schema.
fn valid<T: DeserializeOwned>(file: &Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(file.clone())
}

/// Checks that no copy of `file` with one of these faults is valid, each of which is a value at a JSON pointer. The last name of a pointer
/// may be one that the file does not have.
fn refuses<T: DeserializeOwned + Debug>(file: &Value, faults: &[(&str, Value)]) {
    for (pointer, value) in faults {
        let mut spoilt = file.clone();
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        let parent = spoilt.pointer_mut(parent).and_then(Value::as_object_mut);
        parent.unwrap_or_else(|| panic!("nothing has {pointer}")).insert(name.to_owned(), value.clone());
        valid::<T>(&spoilt).expect_err(pointer);
    }
}

#[test]
fn data_sources_have_the_documented_fields_and_no_others() {
    let file = yaml(SOURCES);
    let sources: DataSourceFile = valid(&file).expect(SOURCES);
    assert_eq!((sources.api_version, sources.datasources.len()), (1, 1));
    let faults = [
        ("/apiVersion", json!("1")),
        ("/datasource", json!([])),
        ("/datasources", json!({})),
        ("/datasources/0/name", json!(1)),
        ("/datasources/0/type", json!("prometeus")),
        ("/datasources/0/acces", json!("proxy")),
        ("/datasources/0/access", json!("server")),
        ("/datasources/0/url", Value::Null),
        ("/datasources/0/isDefault", json!("true")),
        ("/datasources/0/jsonData/timeinterval", json!("15s")),
        ("/datasources/0/jsonData/timeInterval", json!(15)),
        ("/datasources/0/jsonData/httpMethod", json!("PUT")),
    ];
    refuses::<DataSourceFile>(&file, &faults);
}

#[test]
fn dashboard_providers_have_the_documented_fields_and_no_others() {
    let file = yaml(DASHBOARDS);
    let dashboards: DashboardFile = valid(&file).expect(DASHBOARDS);
    assert_eq!((dashboards.api_version, dashboards.providers.len()), (1, 1));
    let faults = [
        ("/apiVersion", Value::Null),
        ("/provider", json!([])),
        ("/providers/0/type", json!("files")),
        ("/providers/0/disableDeletions", json!(true)),
        ("/providers/0/disableDeletion", json!("true")),
        ("/providers/0/allowUiUpdates", json!(0)),
        ("/providers/0/options", json!("/var/lib/grafana-dashboards")),
        ("/providers/0/options/path", Value::Null),
        ("/providers/0/options/paths", json!("/var/lib/grafana-dashboards")),
    ];
    refuses::<DashboardFile>(&file, &faults);
}

#[test]
fn compose_provisions_the_dashboard_with_its_data_source() {
    let grafana = yaml("docker-compose.yml")["services"]["grafana"].clone();
    let volumes = grafana["volumes"].as_array().expect("volumes");
    let provider = &yaml(DASHBOARDS)["providers"][0];
    let directory = provider["options"]["path"].as_str().expect("a path");
    assert!(volumes.contains(&format!("./deploy/grafana/dashboards:{directory}:ro").into()), "{volumes:?}");
    assert!(volumes.contains(&"./deploy/grafana/provisioning:/etc/grafana/provisioning:ro".into()), "{volumes:?}");
    let home = &grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
    assert_eq!(*home, json!(format!("{directory}/session-buddy.json")));

    let source = &yaml(SOURCES)["datasources"][0];
    let dashboard = fs::read_to_string(in_repository("deploy/grafana/dashboards/session-buddy.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let variable = &dashboard["templating"]["list"][0];
    assert_eq!((&variable["name"], &variable["current"]["value"]), (&json!("datasource"), &source["uid"]));
    assert_eq!(source["url"], "http://prometheus:9090");
    let scrape_interval = &yaml("deploy/prometheus/prometheus.yml")["global"]["scrape_interval"];
    assert_eq!(source["jsonData"]["timeInterval"], *scrape_interval, "$__rate_interval rests on it");
}
