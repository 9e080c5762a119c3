//! What pushing by remote write costs, beside a bridge that does not push.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Running;
use crate::Outcome;
use crate::frames::{Frames, event, snapshots};
use crate::report::{Goal, Report};
use crate::sample::median;

const INTERVAL: Duration = Duration::from_secs(5);
const SCRAPES: usize = 15;

pub fn measure(report: &mut Report) -> Outcome<()> {
    idle(report)?;
    full(report)
}

/// Ten skills and a snapshot a second in which nothing changes.
fn idle(report: &mut Report) -> Outcome<()> {
    const TICKS: u32 = 12;
    let pair = Pair::start(10)?;
    let snapshot = Frames::of(snapshots(1));
    let millis = pair.millis_of_a_tick(TICKS, |running, _| running.subscriber.send(&snapshot.bytes))?;
    let detail = format!("{TICKS} ticks of all series, with a state file");
    report.add("push: a tick on an idle laptop", "the same without push", millis, " ms", Goal::AtMost(1.0), &detail);
    Ok(())
}

/// Everything changes between two ticks, and between two scrapes.
fn full(report: &mut Report) -> Outcome<()> {
    const TICKS: u32 = 6;
    const SKILLS: usize = 10_000;
    let mut pair = Pair::start(SKILLS)?;
    let everything = Frames::of((0..SKILLS).map(|number| event(number, SKILLS)));
    let mut scrapes = Vec::new();
    for _ in 0..SCRAPES {
        let quiet = &mut pair.quiet;
        quiet.subscriber.send(&everything.bytes)?;
        quiet.subscriber.sync()?;
        // The commit, which moves the changes to the view, has no part in it, as it has none in a tick.
        thread::sleep(Duration::from_millis(500));
        let before = quiet.program.cpu_millis()?;
        quiet.scraper.scrape(false)?;
        scrapes.push(quiet.program.cpu_millis()? - before);
        // A bridge takes a server for dead that does not answer its pings.
        pair.pushing.subscriber.sync()?;
    }
    let tick = pair.millis_of_a_tick(TICKS, |running, second| match second {
        0 => running.subscriber.send(&everything.bytes),
        _ => Ok(()),
    })?;
    let scrape = median(&scrapes);
    let detail = format!("{tick:.1} to {scrape:.1} ms of processor time, all changed, from the queue to the requests");
    let what = "push: a tick of 10,000 skills, with a state file";
    report.add(what, "a scrape of them", tick / scrape, " x", Goal::AtMost(1.0), &detail);
    Ok(())
}

/// Two bridges with the same skills, of which one pushes.
struct Pair {
    quiet: Running,
    pushing: Running,
    _folder: tempfile::TempDir,
}

impl Pair {
    fn start(skills: usize) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let receiver = Receiver::start()?;
        let push = [format!("--push.url={}", receiver.url), format!("--push.interval={}s", INTERVAL.as_secs())];
        let quiet = Running::start(Some(&folder.path().join("quiet.db")))?.fill(skills)?;
        let pushing = Running::start_with(Some(&folder.path().join("pushing.db")), &push)?.fill(skills)?;
        let mut pair = Self { quiet, pushing, _folder: folder };
        let begin = Instant::now();
        // The first requests have everything that was pending.
        while receiver.requests.load(Ordering::Relaxed) < 2 || begin.elapsed() < 2 * INTERVAL {
            if begin.elapsed() > 6 * INTERVAL {
                return Err("nothing is pushed".into());
            }
            pair.quiet.subscriber.sync()?;
            pair.pushing.subscriber.sync()?;
            thread::sleep(Duration::from_millis(50));
        }
        Ok(pair)
    }

    /// Milliseconds of processor time that a tick adds, the median of `ticks` intervals. `receive` has a bridge receive what belongs to a
    /// second of an interval.
    fn millis_of_a_tick(mut self, ticks: u32, receive: impl Fn(&mut Running, u64) -> Outcome<()>) -> Outcome<f64> {
        let added =
            |pair: &Self| -> Outcome<f64> { Ok(pair.pushing.program.cpu_millis()? - pair.quiet.program.cpu_millis()?) };
        let mut millis = Vec::new();
        for _ in 0..ticks {
            let before = added(&self)?;
            for second in 0..INTERVAL.as_secs() {
                let begin = Instant::now();
                let mut both = [&mut self.quiet, &mut self.pushing];
                // The first finds a core that was idle, which costs more than what is measured.
                both.rotate_left(second as usize % 2);
                for running in both {
                    receive(running, second)?;
                    running.subscriber.sync()?;
                }
                thread::sleep(Duration::from_secs(1).saturating_sub(begin.elapsed()));
            }
            millis.push(added(&self)? - before);
        }
        Ok(median(&millis))
    }
}

/// A receiver that accepts everything.
struct Receiver {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Receiver {
    fn start() -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/api/v1/write", listener.local_addr()?);
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = Arc::clone(&counted);
                thread::spawn(move || answer(stream, &counted));
            }
        });
        Ok(Self { url, requests })
    }
}

fn answer(stream: TcpStream, counted: &AtomicUsize) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut body = Vec::new();
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body).ok()?;
        counted.fetch_add(1, Ordering::Relaxed);
        reader.get_mut().write_all(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n").ok()?;
    }
}
