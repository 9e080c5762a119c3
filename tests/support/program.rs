//! Programs as processes of their own: the bridge, and what the tests run it beside.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::PATIENCE;

/// The end of its output that a program which fails its test leaves behind, at most.
const SHOWN_CHARS_MAX: usize = 20_000;

/// A running program. It leads a process group of its own, which is killed when this is dropped; if the test fails, its
/// output is shown.
pub struct Program {
    name: String,
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

impl Ended {
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// What it printed, standard output first.
    pub fn printed(&self) -> String {
        [self.stdout.as_str(), &self.stderr].concat()
    }
}

/// Runs `command` to its end with `input` on standard input.
pub fn run(command: &mut Command, input: &str) -> Ended {
    run_within(command, input, PATIENCE)
}

/// [`run`], which fails where that takes longer than `limit`.
pub fn run_within(command: &mut Command, input: &str, limit: Duration) -> Ended {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut program = Program::spawn_between(&name, command, Stdio::piped(), Stdio::piped());
    let mut stdin = program.child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("it reads its input");
    drop(stdin);
    program.end_within(limit)
}

impl Program {
    /// The bridge, without variables.
    pub fn start<'a>(args: impl IntoIterator<Item = &'a str>) -> Self {
        Self::start_in(&[], args)
    }

    /// The bridge, with these variables and no others.
    pub fn start_in<'a>(environment: &[(&str, &str)], args: impl IntoIterator<Item = &'a str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_session-buddy-bridge"));
        Self::spawn("the bridge", command.args(args).env_clear().envs(environment.iter().copied()))
    }

    /// The bridge, without variables, with `stdout` as its standard output, which is not read here.
    pub fn start_onto<'a>(stdout: impl Into<Stdio>, args: impl IntoIterator<Item = &'a str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_session-buddy-bridge"));
        Self::spawn_between("the bridge", command.args(args).env_clear(), Stdio::null(), stdout.into())
    }

    /// Any program, called `name` where a test fails, with empty standard input.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        Self::spawn_between(name, command, Stdio::null(), Stdio::piped())
    }

    fn spawn_between(name: &str, command: &mut Command, stdin: Stdio, stdout: Stdio) -> Self {
        let mut child = command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} did not start: {error}: {command:?}"));
        let (sender, lines) = channel();
        let (out, err) = (child.stdout.take(), child.stderr.take().expect("piped"));
        let err_sender = sender.clone();
        let is_deaf = Arc::new(AtomicBool::new(false));
        let deaf = is_deaf.clone();
        if let Some(out) = out {
            thread::spawn(move || for_each_line(out, |line| sender.send(Line::Out(line)).is_ok()));
        }
        thread::spawn(move || {
            for_each_line(err, |line| !deaf.load(Ordering::Relaxed) && err_sender.send(Line::Err(line)).is_ok());
        });
        Self { name: name.to_owned(), child, lines, is_deaf, stdout: String::new(), stderr: String::new() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_some()
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
        self.read_until(what, |program| condition(&program.stdout).then_some(()));
        &self.stdout
    }

    /// What it wrote to standard error so far, once that is as described.
    pub fn until_stderr(&mut self, what: &str, condition: impl Fn(&str) -> bool) -> &str {
        self.read_until(what, |program| condition(&program.stderr).then_some(()));
        &self.stderr
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&mut self) -> &str {
        while let Ok(line) = self.lines.try_recv() {
            self.note(line);
        }
        &self.stderr
    }

    /// What `find` makes of the first line that it recognises, of standard output or else of standard error.
    pub fn until_line<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        self.read_until(what, |program| program.stdout.lines().chain(program.stderr.lines()).find_map(&find))
    }

    /// Where it serves, as its log says; at the level `info` at least.
    pub fn address(&mut self) -> SocketAddr {
        let address = |log: &str| {
            let line = log.lines().find(|line| line.contains("listening"))?;
            let (_, address) = line.split_once("address")?;
            address.trim_matches(['=', ':', '"', '}']).split(['"', ' ']).next()?.parse().ok()
        };
        self.read_until("the address", |program| address(&program.stderr))
    }

    /// What it wrote so far, standard output first.
    pub fn printed(&mut self) -> String {
        while let Ok(line) = self.lines.try_recv() {
            self.note(line);
        }
        [self.stdout.as_str(), &self.stderr].concat()
    }

    /// Waits for its end, and fails where that takes longer than `limit`.
    pub fn end_within(mut self, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        while self.read(deadline, "the end").is_some() {}
        // It has closed both streams, as only its end does.
        let code = self.child.wait().expect("a child can be waited for").code();
        Ended { code, stdout: std::mem::take(&mut self.stdout), stderr: std::mem::take(&mut self.stderr) }
    }

    pub fn end(self) -> Ended {
        self.end_within(PATIENCE)
    }

    /// Reads line by line until `find` finds something in what was read.
    fn read_until<T>(&mut self, what: &str, find: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = find(self) {
                return found;
            }
            if self.read(deadline, what).is_none() {
                panic!("{} ended before {what}:\n{}{}", self.name, self.stdout, self.stderr);
            }
        }
    }

    /// Reads one line; `None` at the end of both streams.
    fn read(&mut self, deadline: Instant, what: &str) -> Option<()> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => self.note(line),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => panic!("waited in vain for {what} of {}", self.name),
        }
        Some(())
    }

    fn note(&mut self, line: Line) {
        match line {
            Line::Out(line) => self.stdout.push_str(&line),
            Line::Err(line) => self.stderr.push_str(&line),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A group whose processes have all ended is gone, which is as good.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        if thread::panicking() {
            let printed = self.printed();
            let from = printed.char_indices().rev().nth(SHOWN_CHARS_MAX).map_or(0, |(at, _)| at);
            eprintln!("--- output of {}:\n{}---", self.name, &printed[from..]);
        }
    }
}

fn for_each_line(from: impl Read, mut each: impl FnMut(String) -> bool) {
    let mut from = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        match from.read_until(b'\n', &mut line) {
            Ok(1..) if each(String::from_utf8_lossy(&line).into_owned()) => {}
            _ => return,
        }
    }
}
