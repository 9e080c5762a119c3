//! Log lines on standard error.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Debug, Write as _};
use std::io;
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::log_queue::LogQueue;
use crate::settings::{LogFormat, LogLevel, LogSettings};
use crate::text::one_line;

/// How long the end of the program waits for lines that are queued.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(300);

/// Characters of a panic's message that are logged: it may quote whatever was received.
const PANIC_CHARS_MAX: usize = 1000;

/// The log of the process; tracing has one for all of its threads, too.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// Writes what is queued when it is dropped, within [`FLUSH_TIMEOUT`].
pub(super) struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        flush();
    }
}

/// Writes what is queued, within [`FLUSH_TIMEOUT`].
pub(super) fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH_TIMEOUT);
    }
}

/// Starts to log as `settings` request, until what this returns is dropped. Of libraries only `warn` and above is logged: the
/// rest is noise, and could hold secrets. Panics are logged too: the default hook would wait for a reader of standard error.
#[must_use = "what is logged after it is dropped may be lost"]
pub(super) fn start(settings: LogSettings) -> FlushOnDrop {
    let level = match settings.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let filter = Targets::new().with_target("session_buddy_bridge", level).with_default(level.min(LevelFilter::WARN));
    let queue = QUEUE.get_or_init(|| LogQueue::new(io::stderr()));
    let lines = layer().with_writer(queue.clone());
    let lines = match settings.format {
        LogFormat::Logfmt => lines.event_format(Logfmt).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_target(false).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    panic::set_hook(Box::new(log_panic));
    FlushOnDrop
}

/// Logs a panic, with its backtrace if `RUST_BACKTRACE` requests one.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let error = one_line(panic.payload_as_str().unwrap_or("no message"), PANIC_CHARS_MAX);
    let location = panic.location().map(tracing::field::display);
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(&backtrace));
    tracing::error!(thread, location, error, backtrace, "panicked; this is a bug, please report it");
}

/// `ts=… level=… msg=… field=…`, one line an event.
struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = event.metadata().level().as_str().to_lowercase();
        write!(writer, "ts={} level={level} msg=", timestamp(SystemTime::now()))?;
        write_value(&mut writer, &fields.message)?;
        writeln!(writer, "{}", fields.others)
    }
}

/// Returns `time` as RFC 3339 writes it; the latest that it can write for a later one.
fn timestamp(time: SystemTime) -> impl fmt::Display {
    Timestamp::try_from(time).unwrap_or(Timestamp::MAX).strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
}

#[derive(Default)]
struct Fields {
    message: String,
    /// Each with a space before it.
    others: String,
}

impl Fields {
    fn add(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
            return;
        }
        let written = write!(self.others, " {}=", field.name()).and_then(|()| write_value(&mut self.others, value));
        written.expect("writing to a String does not fail");
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

/// A bare word as it is, anything else in quotes, so that a line stays a line whatever a value holds.
fn write_value(out: &mut impl fmt::Write, value: &str) -> fmt::Result {
    let bare = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(bare) { out.write_str(value) } else { write!(out, "{value:?}") }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::io::{PipeWriter, Read, Write, pipe};
    use std::process::{Command, Stdio};
    use std::sync::mpsc;

    use rustix::io::ioctl_fionbio;

    use super::*;

    /// Set in a process that panics.
    const PANICS: &str = "TEST_OF_THE_LOG_PANICS";
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Starts this test binary again for the test that panics, and waits for its end.
    fn process_that_panics(stderr: PipeWriter) {
        let name = "cli::logging::tests::a_panic_is_a_line_of_the_log_and_waits_for_no_reader";
        let mut child = Command::new(env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env_remove("RUST_BACKTRACE")
            .env(PANICS, "1")
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, printed) = mpsc::channel();
        thread::spawn(move || {
            let mut text = String::new();
            sender.send(stdout.read_to_string(&mut text).map(|_| text))
        });
        let printed = printed.recv_timeout(PATIENCE);
        // Whoever waits for a reader has not ended.
        let _ = child.kill();
        child.wait().unwrap();
        let printed = printed.expect("it ends").unwrap();
        assert!(printed.contains(" 1 passed;"), "{printed}");
    }

    #[test]
    fn a_panic_is_a_line_of_the_log_and_waits_for_no_reader() {
        if env::var_os(PANICS).is_some() {
            let _log = start(LogSettings::default());
            let panics = || panic!("a forged\nline \u{202e}of a server");
            let panicking = thread::Builder::new().name("reader".to_owned()).spawn(panics);
            panicking.unwrap().join().unwrap_err();
            return;
        }
        let (mut reader, writer) = pipe().unwrap();
        process_that_panics(writer);
        let mut logged = String::new();
        reader.read_to_string(&mut logged).unwrap();
        let [line] = logged.lines().collect::<Vec<_>>()[..] else { panic!("{logged}") };
        for field in ["level=error", "thread=reader", "location=src/cli/logging.rs:", "a forged", "202e"] {
            assert!(line.contains(field), "{field}: {line}");
        }

        let (_reader, mut writer) = pipe().unwrap();
        ioctl_fionbio(&writer, true).unwrap();
        let full = (0..).find_map(|_| writer.write_all(&[b'.'; 512]).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        ioctl_fionbio(&writer, false).unwrap();
        process_that_panics(writer);
    }

    fn written(value: &str) -> String {
        let mut out = String::new();
        write_value(&mut out, value).unwrap();
        out
    }

    #[test]
    fn a_clock_beyond_the_year_9999_is_logged() {
        let text = |seconds| timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
        assert_eq!(text(1_800_000_000), "2027-01-15T08:00:00.000Z");
        assert!(text(253_402_300_800).starts_with("9999-12-30T"), "{}", text(253_402_300_800));
    }

    #[test]
    fn a_value_never_breaks_its_line() {
        assert_eq!(written("ws://localhost:8765/"), "ws://localhost:8765/");
        assert_eq!(written(""), "\"\"");
        assert_eq!(written("two words"), "\"two words\"");
        assert_eq!(written("a=b"), "\"a=b\"");
        assert_eq!(written("say \"x\"\nts=1"), "\"say \\\"x\\\"\\nts=1\"");
        assert_eq!(written("\u{1b}[31m"), "\"\\u{1b}[31m\"");
    }
}
