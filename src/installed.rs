//! The skills that are installed on this machine: folders that hold a `SKILL.md`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use prometheus::core::Desc;
use thiserror::Error;

use crate::exposition::OwnCollector;
use crate::exposition::family::Family;
use crate::exposition::own::{FamilySink, OwnMetrics};
use crate::sync::lock;

/// The file that makes a folder a skill.
const SKILL_FILE: &str = "SKILL.md";

const INSTALLED: Family<1> = Family::gauge(
    "session_buddy_bridge_skill_installed",
    "1 for each skill that is installed in a directory of --skills.dir.",
    ["skill_name"],
);

/// A directory of installed skills, or one of its folders, cannot be read.
#[derive(Debug, Error)]
#[error("cannot read {} (--skills.dir): {source}", .directory.display())]
pub struct SkillsDirError {
    /// The directory.
    pub directory: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Returns the names of the folders in `directories` that hold a `SKILL.md`. A name that is not UTF-8 is no skill's: no server
/// could store it.
///
/// # Errors
/// A directory or one of its folders cannot be read.
pub fn installed_skills(directories: &[PathBuf]) -> Result<BTreeSet<String>, SkillsDirError> {
    let mut skills = BTreeSet::new();
    for directory in directories {
        let failed = |source| SkillsDirError { directory: directory.clone(), source };
        for entry in fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if is_skill(&path).map_err(failed)?
                && let Some(name) = path.file_name().and_then(|name| name.to_str())
            {
                skills.insert(name.to_owned());
            }
        }
    }
    Ok(skills)
}

/// Symbolic links lead to skills, too.
fn is_skill(folder: &Path) -> io::Result<bool> {
    match fs::metadata(folder.join(SKILL_FILE)) {
        Ok(metadata) => Ok(metadata.is_file()),
        // It is a file, a folder without the file, or a link to nothing.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The installed skills as they were last read, for scrapes, which read no directory.
#[derive(Debug, Clone, Default)]
pub struct InstalledSkills(Arc<Mutex<BTreeSet<String>>>);

impl InstalledSkills {
    /// Replaces what was read before.
    pub fn set(&self, skills: BTreeSet<String>) {
        *lock(&self.0) = skills;
    }

    /// Returns a collector of `session_buddy_bridge_skill_installed`.
    pub fn collector(&self) -> OwnCollector {
        OwnCollector::new(self.clone())
    }
}

impl OwnMetrics for InstalledSkills {
    fn descs(&self) -> Vec<Desc> {
        vec![INSTALLED.desc()]
    }

    fn write(&self, sink: &mut dyn FamilySink) {
        let skills = lock(&self.0);
        INSTALLED.write(skills.iter().map(|name| ([name.as_str()], 1.0)), sink);
    }
}
