//! The Python peer, in a virtual environment of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;

const PACKAGES: [&str; 2] = ["websockets==17.4", "prometheus-client==0.26.0"];

/// The peer's interpreter and script.
pub struct Python {
    pub interpreter: PathBuf,
    pub script: PathBuf,
}

impl Python {
    /// Installs the peer where it is not there yet.
    pub fn install() -> Outcome<Self> {
        let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = benches.join("../target/peers/bench-python");
        let interpreter = folder.join("bin/python");
        if !interpreter.exists() {
            run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        }
        run(Command::new(&interpreter).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
        Ok(Self { interpreter, script: benches.join("peers/python_client.py") })
    }
}

fn run(command: &mut Command) -> Outcome<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}
