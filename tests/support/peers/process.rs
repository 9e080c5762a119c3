//! A child process whose output is kept, shown if the test fails, and which never outlives the test.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::eventually;

/// Leads a process group of its own, which is killed when this is dropped.
pub struct Process {
    name: String,
    child: Child,
    directory: TempDir,
}

impl Process {
    /// Starts `command` with empty standard input, both outputs going into one file.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let output = File::create(directory.path().join("output")).expect("a file for the output");
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle of the output"))
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} did not start: {command:?}: {error}"));
        Self { name: name.to_owned(), child, directory }
    }

    /// Everything that it has written so far.
    pub fn output(&self) -> String {
        let written = std::fs::read(self.directory.path().join("output")).unwrap_or_default();
        String::from_utf8_lossy(&written).into_owned()
    }

    /// A directory of its own that goes when it goes.
    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// What `find` makes of the first whole line of output that it recognises.
    ///
    /// # Panics
    /// If the process ends without such a line, or takes too long.
    pub fn await_line<T>(&mut self, awaited: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let name = self.name.clone();
        eventually(&format!("{awaited} from {name}"), || {
            let ended = self.child.try_wait().expect("a child can be asked").is_some();
            let output = self.output();
            let whole = &output[..output.rfind('\n').map_or(0, |end| end + 1)];
            match whole.lines().find_map(&find) {
                Some(found) => Ok(found),
                None if ended => panic!("{name} ended without {awaited}"),
                None => Err("not written".to_owned()),
            }
        })
    }

    /// Waits for the end.
    pub fn await_end(&mut self) -> ExitStatus {
        let name = self.name.clone();
        eventually(&format!("the end of {name}"), || {
            self.child.try_wait().expect("a child can be asked").ok_or_else(|| "still running".to_owned())
        })
    }

    /// Sends `signal` to its group.
    pub fn signal(&self, signal: Signal) {
        // A group whose processes have all ended is gone, which is as good.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            let output = self.output();
            let from = output.char_indices().rev().nth(20_000).map_or(0, |(at, _)| at);
            let _ = writeln!(std::io::stderr(), "--- output of {}:\n{}---", self.name, &output[from..]);
        }
    }
}

/// Runs `command` to its end with `input` on standard input.
pub fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("did not start: {command:?}: {error}"));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads its input");
    child.wait_with_output().expect("it can be waited for")
}
