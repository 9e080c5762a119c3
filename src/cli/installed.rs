//! The skills that are installed on this machine.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::CommandError;
use crate::settings::SettingsError;
use crate::settings::path::check_path;

/// The file that makes a folder a skill.
const SKILL_FILE: &str = "SKILL.md";

#[derive(Debug, Args)]
#[command(next_help_heading = "Skills")]
pub(super) struct SkillsDirFlags {
    /// Directory of installed skills, one folder each that holds SKILL.md: the folder's name is the skill's (may be repeated)
    #[arg(id = "skills.dir", long = "skills.dir", value_name = "DIR")]
    pub directories: Vec<PathBuf>,
}

impl SkillsDirFlags {
    /// Returns the directories.
    ///
    /// # Errors
    /// One starts with `~`.
    pub fn directories(self) -> Result<Vec<PathBuf>, SettingsError> {
        self.directories.iter().try_for_each(|directory| check_path("--skills.dir", directory))?;
        Ok(self.directories)
    }
}

/// Returns the names of the folders in `directories` that hold a `SKILL.md`. A name that is not UTF-8 is no skill's: no server
/// could store it.
///
/// # Errors
/// A directory or one of its folders cannot be read.
pub(super) fn installed_skills(directories: &[PathBuf]) -> Result<BTreeSet<String>, CommandError> {
    let mut skills = BTreeSet::new();
    for directory in directories {
        let failed = |source| CommandError::SkillsDir { directory: directory.clone(), source };
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
