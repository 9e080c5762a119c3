//! What `.ci/install-peers` installed by npm, and the Node to run it.

use std::path::PathBuf;
use std::process::Command;

use super::{found_or_skip, peers_directory};

#[derive(Debug)]
pub struct Node {
    /// Where `node_modules` is.
    pub directory: PathBuf,
}

impl Node {
    pub fn find_or_skip() -> Option<Self> {
        let directory = peers_directory().join("node");
        let is_there = directory.join("installed").is_file();
        let found =
            is_there.then_some(Self { directory }).ok_or_else(|| "no npm packages: run .ci/install-peers".to_owned());
        found_or_skip(found)
    }

    pub fn command(&self) -> Command {
        Command::new(self.directory.join("venv/bin/node"))
    }

    /// The text of a file of a package.
    pub fn file(&self, path: &str) -> String {
        let file = self.directory.join("node_modules").join(path);
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }
}
