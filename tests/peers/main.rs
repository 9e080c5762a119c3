//! What the bridge promises beside programs from outside, which `.ci/install-peers` installs: a module a promise.

#[path = "../support/mod.rs"]
mod support;

mod backfill_joins_live_series;
mod both_formats_are_one;
mod check_tells_what_it_sees;
mod containers_run;
mod control_characters_blind_nobody;
mod cost_per_skill;
mod dashboard_is_valid;
mod database_accidents;
mod database_maintenance;
mod debian_package;
mod deploy_is_valid;
mod detail_is_exact;
mod failures_by_cause;
mod fault_proxy;
mod kill_minus_nine;
mod live_page;
mod live_page_states;
mod peers_work;
mod push_credentials;
mod push_full_disk;
mod push_kills;
mod push_pair;
mod push_receivers;
mod queries_return_data;
mod readme_works;
mod real_prometheus;
mod real_server;
mod real_server_auth;
mod report_of_the_real_storage;
mod runs_under_systemd;
mod source_model;
mod source_real_server;
mod web_config_is_obeyed;
