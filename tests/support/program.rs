//! The program as a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::PATIENCE;

/// A running program that does not outlive its test.
pub struct Program {
    child: Child,
    lines: Receiver<Line>,
    is_deaf: Arc<AtomicBool>,
    stdout: String,
    stderr: String,
}

enum Line {
    Out(String),
    Err(String),
}

/// What is left of a program.
#[derive(Debug)]
pub struct Ended {
    /// `None` where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    pub fn start<'a>(args: impl IntoIterator<Item = &'a str>) -> Self {
        Self::start_in(&[], args)
    }

    /// With these variables and no others.
    pub fn start_in<'a>(environment: &[(&str, &str)], args: impl IntoIterator<Item = &'a str>) -> Self {
        Self::spawn(environment, args, Stdio::piped())
    }

    /// With `stdout` as its standard output, which is not read here.
    pub fn start_onto<'a>(stdout: impl Into<Stdio>, args: impl IntoIterator<Item = &'a str>) -> Self {
        Self::spawn(&[], args, stdout.into())
    }

    fn spawn<'a>(environment: &[(&str, &str)], args: impl IntoIterator<Item = &'a str>, stdout: Stdio) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_session-buddy-bridge"))
            .args(args)
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (said, lines) = channel();
        let (out, err) = (child.stdout.take(), child.stderr.take().unwrap());
        let said_too = said.clone();
        let is_deaf = Arc::new(AtomicBool::new(false));
        let deaf = is_deaf.clone();
        if let Some(out) = out {
            thread::spawn(move || for_each_line(out, |line| said.send(Line::Out(line)).is_ok()));
        }
        thread::spawn(move || {
            for_each_line(err, |line| !deaf.load(Ordering::Relaxed) && said_too.send(Line::Err(line)).is_ok());
        });
        Self { child, lines, is_deaf, stdout: String::new(), stderr: String::new() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the program runs");
    }

    /// Closes the reading end of its standard error behind the next line.
    pub fn close_stderr(&self) {
        self.is_deaf.store(true, Ordering::Relaxed);
    }

    /// What it wrote to standard output so far, once that is as described.
    pub fn until_stdout(&mut self, what: &str, condition: impl Fn(&str) -> bool) -> &str {
        self.read_until(what, |program| condition(&program.stdout));
        &self.stdout
    }

    /// What it wrote to standard error so far, once that is as described.
    pub fn until_stderr(&mut self, what: &str, condition: impl Fn(&str) -> bool) -> &str {
        self.read_until(what, |program| condition(&program.stderr));
        &self.stderr
    }

    /// Where it serves, as its log says; at the level `info` at least.
    pub fn address(&mut self) -> SocketAddr {
        let address = |log: &str| {
            let line = log.lines().find(|line| line.contains("listening"))?;
            let (_, address) = line.split_once("address")?;
            address.trim_matches(['=', ':', '"', '}']).split('"').next()?.parse().ok()
        };
        address(self.until_stderr("the address", |log| address(log).is_some())).unwrap()
    }

    /// Waits for its end, and fails where that takes longer than `limit`.
    pub fn end_within(mut self, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        while self.read(deadline, "the end").is_some() {}
        // It has closed both streams, as only its end does.
        let code = self.child.wait().unwrap().code();
        Ended { code, stdout: std::mem::take(&mut self.stdout), stderr: std::mem::take(&mut self.stderr) }
    }

    pub fn end(self) -> Ended {
        self.end_within(PATIENCE)
    }

    fn read_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            if self.read(deadline, what).is_none() {
                panic!("it ended before {what}:\n{}{}", self.stdout, self.stderr);
            }
        }
    }

    /// Reads one line; `None` at the end of both streams.
    fn read(&mut self, deadline: Instant, what: &str) -> Option<()> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Line::Out(line)) => self.stdout.push_str(&line),
            Ok(Line::Err(line)) => self.stderr.push_str(&line),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("waited in vain for {what}:\n{}{}", self.stdout, self.stderr)
            }
        }
        Some(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn for_each_line(from: impl Read, mut each: impl FnMut(String) -> bool) {
    let mut from = BufReader::new(from);
    loop {
        let mut line = String::new();
        match from.read_line(&mut line) {
            Ok(1..) if each(line) => {}
            _ => return,
        }
    }
}
