//! What the demo prints: what runs where, and what to try.

use std::net::SocketAddr;

/// Returns what runs at `feed_url` and `bridge`, and what to try. `usual` is the default address, if it was in use and the
/// bridge listens on another.
pub fn guide(feed_url: &str, bridge: SocketAddr, telemetry_path: &str, usual: Option<SocketAddr>) -> String {
    // An unspecified address is for listening; from this machine the bridge is reached at any of its own.
    let is_wide = !bridge.ip().is_loopback();
    let bridge = match bridge.ip().is_unspecified() {
        true => format!("localhost:{}", bridge.port()),
        false => bridge.to_string(),
    };
    let privacy = if is_wide { "Nothing is stored." } else { "Nothing leaves this machine, nothing is stored." };
    let metrics = format!("http://{bridge}{telemetry_path}");
    let moved = match usual {
        Some(usual) => {
            format!("\n({usual} is in use, so the bridge took a free port; --web.listen-address chooses one.)\n")
        }
        None => String::new(),
    };
    let metrics_path = match telemetry_path {
        "/metrics" => String::new(),
        path => format!("    metrics_path: {path}\n"),
    };
    format!(
        "\
A simulated Session-Buddy server runs at {feed_url},
and the bridge is subscribed to it. {privacy}

  Live page, for a browser: http://{bridge}/
  Metrics: {metrics}
{moved}
Try, in another terminal:
  curl -s {metrics} | grep ^skill_invocations_total
      each invocation counted once, though the server repeats its totals every second
  curl -s {metrics} | grep ^skill_completion_rate
      the share of completed invocations, 0 to 1
  curl -s {metrics} | grep ^anomalies_detected_total
      each anomaly counted once, though the server lists it for an hour; a new one every 25 seconds or so
  curl -s {metrics} | grep ^session_buddy_bridge_
      what the bridge reports about itself and the feed
  curl -s http://{bridge}/-/ready
      whether the feed is live

For Prometheus, under scrape_configs in prometheus.yml:
  - job_name: session-buddy
{metrics_path}    static_configs:
      - targets: ['{bridge}']

Ctrl-C ends it.
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_names_what_runs() {
        let bridge = "127.0.0.1:9090".parse().unwrap();
        let text = guide("ws://127.0.0.1:5/", bridge, "/metrics", None);
        assert!(text.contains("Metrics: http://127.0.0.1:9090/metrics\n"), "{text}");
        assert!(text.contains("Nothing leaves this machine"), "{text}");
        assert!(text.contains("- targets: ['127.0.0.1:9090']"), "{text}");
        assert!(!text.contains("in use") && !text.contains("metrics_path"), "{text}");
    }

    #[test]
    fn the_guide_to_every_interface_names_one_that_answers() {
        for bridge in ["[::]:9090", "0.0.0.0:9090"] {
            let text = guide("ws://127.0.0.1:5/", bridge.parse().unwrap(), "/metrics", None);
            assert!(text.contains("Metrics: http://localhost:9090/metrics\n") && !text.contains(bridge), "{text}");
            assert!(!text.contains("Nothing leaves"), "{text}");
        }
        assert!(!guide("ws://h/", "192.0.2.1:9090".parse().unwrap(), "/m", None).contains("Nothing leaves"));
    }

    #[test]
    fn the_guide_says_what_is_unusual() {
        let (bridge, usual) = ("127.0.0.1:4711".parse().unwrap(), "127.0.0.1:9090".parse().unwrap());
        let text = guide("ws://127.0.0.1:5/", bridge, "/m", Some(usual));
        assert!(text.contains("127.0.0.1:9090 is in use"), "{text}");
        assert!(text.contains("    metrics_path: /m\n    static_configs:"), "{text}");
    }
}
