//! Each record of `PrometheusExporter` is a debug log line.
//!
//! The test is alone in its process: a log line that another thread is the first to reach, without a subscriber, is switched
//! off for this thread too.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use crate::support::alone::alone;
use session_buddy_bridge::PrometheusExporter;

/// What was logged, as bytes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn each_record_is_a_debug_line_and_a_refused_one_is_none() {
    alone(|| {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let exporter = PrometheusExporter::new(9092);
            exporter.record_invocation("pytest-run", Some("setup"), true, Some(1.5)).unwrap();
            exporter.record_invocation("pytest-run", None, false, None).unwrap();
            exporter.update_completion_rate("pytest-run", 0.5).unwrap();
            exporter.record_anomaly("drop", "pytest-run").unwrap();
            exporter.update_active_sessions(3).unwrap();
            exporter.update_active_sessions(-3).unwrap_err();
            exporter.record_invocation("__overflow__", None, true, None).unwrap_err();
        });
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = log.lines().map(str::trim_start).collect();
        let expected = [
            "invocation recorded skill_name=\"pytest-run\" workflow_phase=\"setup\" completed=true duration_seconds=1.5",
            "invocation recorded skill_name=\"pytest-run\" completed=false",
            "completion rate updated skill_name=\"pytest-run\" rate=0.5",
            "anomaly recorded anomaly_type=\"drop\" skill_name=\"pytest-run\"",
            "active sessions updated count=3",
        ];
        let expected: Vec<String> =
            expected.iter().map(|line| format!("DEBUG session_buddy_bridge::exporter: {line}")).collect();
        assert_eq!(lines, expected);
    });
}
