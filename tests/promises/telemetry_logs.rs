//! Each event of the bridge is said once, on one line, at the level that it deserves.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Once};

use crate::support::alone::alone;
use crate::support::http_client::get;
use crate::support::served::MadeUp;
use session_buddy_bridge::internals::feed::FeedState;
use session_buddy_bridge::internals::health::Health;
use session_buddy_bridge::internals::http::{self, HttpSettings};
use session_buddy_bridge::internals::ledger::binding::Doubt;
use session_buddy_bridge::internals::ledger::{FallenSkill, FallenSkills, Notice, ResetCause};
use session_buddy_bridge::internals::protocol::{MessageType, Rejection, RejectionReason};
use session_buddy_bridge::internals::telemetry::Telemetry;
use tokio::runtime;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

const FEED: &str = "ws://localhost:8765/";

thread_local! {
    static WRITTEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        WRITTEN.with_borrow_mut(|written| written.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that `act` logs on this thread, without their times, but for those of the levels in `quiet`. The subscriber
/// is the process's only one: subscribers that come and go with each test race for tracing's cache of what is enabled.
fn lines(quiet: &[&str], act: impl FnOnce()) -> Vec<String> {
    static SUBSCRIBER: Once = Once::new();
    SUBSCRIBER.call_once(|| {
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).without_time();
        subscriber.with_target(false).with_ansi(false).with_writer(|| Writer).init();
    });
    WRITTEN.take();
    act();
    let written = String::from_utf8(WRITTEN.take()).unwrap();
    let lines = written.lines().map(str::trim_start).filter(|line| !quiet.iter().any(|level| line.starts_with(level)));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_healthy_feed_is_two_lines_at_info() {
    alone(|| {
        let logged = lines(&["DEBUG", "TRACE"], || {
            let (feed, health) = (Telemetry::new().feed(FEED), Health::new().feed(FEED));
            let report = |state: &FeedState| feed.state_changed(state, health.update(state));
            report(&FeedState::Connecting);
            feed.connected();
            feed.message(MessageType::Connected, 1.0);
            report(&FeedState::Live);
            (0..100).for_each(|second| feed.message(MessageType::MetricsUpdate, f64::from(second)));
            report(&FeedState::Live);
        });
        assert_eq!(logged, ["INFO connected feed=ws://localhost:8765/", "INFO live feed=ws://localhost:8765/"]);
    });
}

#[test]
fn what_repeats_is_said_once_and_cut_short() {
    alone(|| {
        let logged = lines(&["TRACE"], || {
            let feed = Telemetry::new().feed("f");
            let long = "\u{202e}\r\n\"é\"".to_owned() + &"x".repeat(1000);
            for _ in 0..1000 {
                feed.rejected(&Rejection::new(RejectionReason::MalformedFrame, long.clone()));
                feed.rejected(&Rejection::new(RejectionReason::InvalidNumber, "rate is NaN"));
                feed.notice(&Notice::AnomalyWindowOverflowed);
                feed.notice(&Notice::LateEvents { events: 3 });
            }
        });
        let cut = format!("\\u{{202e}}\\r\\n\"é\"{}…", "x".repeat(194));
        assert_eq!(
            logged,
            [
                format!("WARN message or entry rejected feed=f reason=\"malformed_frame\" detail={cut}"),
                "WARN message or entry rejected feed=f reason=\"invalid_number\" detail=rate is NaN".to_owned(),
                "WARN more anomalies than the feed lists; some may be missing feed=f".to_owned(),
                "WARN events dropped; no snapshot accounted for them feed=f events=3".to_owned(),
            ]
        );
    });
}

#[test]
fn every_notice_is_a_line_that_names_what_is_at_fault() {
    alone(|| {
        let skill_name = || "pytest\n-run".to_owned();
        let fallen = |remembered, listed| FallenSkill { skill_name: skill_name().into(), remembered, listed };
        for (notice, level, parts) in [
            (
                Notice::Reset(ResetCause::TotalFell { skill_name: skill_name(), from: 9, to: 2 }),
                "WARN",
                "the total of pytest\\n-run fell from 9 to 2",
            ),
            (Notice::Reset(ResetCause::SplitFell { skill_name: skill_name() }), "WARN", "pytest\\n-run has fewer"),
            (
                Notice::Reset(ResetCause::SkillMissing { skill_name: skill_name() }),
                "WARN",
                "pytest\\n-run is no longer",
            ),
            (
                Notice::RolledBack { fell: FallenSkills { named: vec![fallen(9, 2), fallen(4, 0)], others: 0 } },
                "WARN",
                "fell=pytest\\n-run 9 to 2, pytest\\n-run 4 to 0",
            ),
            (
                Notice::RolledBack { fell: FallenSkills { named: vec![fallen(9, 2)], others: 17 } },
                "WARN",
                "fell=pytest\\n-run 9 to 2 others=17",
            ),
            (Notice::RolledBack { fell: FallenSkills::default() }, "WARN", "database rolled back"),
            (Notice::Restored, "WARN", "before the damage"),
            (Notice::AliasFound { of: "ws://b:1/".to_owned() }, "INFO", "active=ws://b:1/"),
            (Notice::AliasCleared, "INFO", "feed is active"),
            (Notice::SourcesJoined { counted_twice: 7 }, "WARN", "counted_twice=7"),
            (Notice::SourceForked, "WARN", "another database"),
            (Notice::Undecided { doubt: Doubt::Damage }, "WARN", "reason=\"damage\""),
            (Notice::SeriesOverflowed { skill_name: skill_name(), series_max: 30 }, "WARN", "series_max=30"),
            (Notice::SkillsOverflowed { skill_name: skill_name(), skills_max: 20 }, "WARN", "skills_max=20"),
        ] {
            let logged = lines(&[], || Telemetry::new().feed("f").notice(&notice));
            let [line] = &logged[..] else { panic!("{notice:?}: {logged:?}") };
            assert!(line.starts_with(level) && line.contains(parts) && line.contains("feed=f"), "{notice:?}: {line}");
        }
    });
}

#[test]
fn an_end_at_shutdown_is_no_warning_and_other_ends_are() {
    alone(|| {
        let logged = lines(&["DEBUG", "TRACE"], || {
            let feed = Telemetry::new().feed("f");
            feed.disconnected("shutdown", "the bridge ends");
            feed.disconnected("4001", "Authentication failed; check the token");
            feed.disconnected("4001", "Authentication failed; check the token");
        });
        assert_eq!(
            logged,
            [
                "INFO disconnected feed=f code=\"shutdown\" reason=the bridge ends",
                "WARN disconnected feed=f code=\"4001\" reason=Authentication failed; check the token",
            ]
        );
    });
}

#[test]
fn a_scrape_that_panics_is_one_line_whichever_thread_writes_it() {
    alone(|| {
        for is_small in [false, true] {
            let logged = lines(&["INFO", "DEBUG", "TRACE"], || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let content = MadeUp { is_small, ..MadeUp::showing(|| panic!("no metrics")) };
                let listener = http::bind("127.0.0.1:0".parse().unwrap()).unwrap();
                let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
                runtime.block_on(async {
                    let settings = HttpSettings::default();
                    let served = http::serve(listener, Arc::new(content), settings, shutdown.clone());
                    let scraped = async {
                        let answer = spawn_blocking(move || get(address, "/metrics")).await.unwrap();
                        shutdown.cancel();
                        answer.status
                    };
                    let (ended, status) = tokio::join!(served, scraped);
                    ended.unwrap();
                    assert_eq!(status, 500);
                });
            });
            let [line] = &logged[..] else { panic!("not one line: {logged:?}") };
            assert!(line.starts_with("ERROR a scrape failed error="), "{line}");
            assert!(line.ends_with("panicked with message \"no metrics\""), "{line}");
        }
    });
}
