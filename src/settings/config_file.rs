//! The configuration file: feeds, each with what is its own, and limits. What stands in it can change while the bridge runs.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::flags::CredentialFlags;
use super::{FEEDS_MAX, FeedTarget, SettingsError, Subscription, checked_limits, checked_name, distinct};
use crate::feed::Secret;
use crate::ledger::Limits;

/// A configuration file, and what counts where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// The file.
    pub path: PathBuf,
    /// The feeds where the file names none.
    pub(super) feeds: Vec<FeedTarget>,
    /// The limits where the file has none.
    pub(super) limits: Limits,
    pub(super) frame_bytes_max: usize,
    /// What the environment holds, for feeds that have neither token nor secret of their own.
    pub(super) token: Option<Secret>,
    pub(super) jwt_secret: Option<Secret>,
}

/// What a configuration file asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadableSettings {
    /// The feeds to subscribe to, each with an identity of its own.
    pub feeds: Vec<FeedTarget>,
    /// How much is counted and remembered.
    pub ledger_limits: Limits,
    /// Longest frame that is read, in bytes.
    pub frame_bytes_max: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    feeds: Vec<FeedEntry>,
    limits: LimitEntries,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedEntry {
    url: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    skill: Option<String>,
    #[serde(default)]
    skills_db: Option<PathBuf>,
    #[serde(default)]
    token_file: Option<PathBuf>,
    #[serde(default)]
    jwt_secret_file: Option<PathBuf>,
    #[serde(default)]
    headers_file: Option<PathBuf>,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    cert_file: Option<PathBuf>,
    #[serde(default)]
    key_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitEntries {
    skills: Option<usize>,
    remembered_skills: Option<usize>,
    label_chars: Option<usize>,
    max_frame_bytes: Option<usize>,
}

impl ConfigFile {
    /// Reads the file, and every file of credentials that it names.
    ///
    /// # Errors
    /// The first thing in it that cannot be; nothing of it counts then.
    pub fn read(&self) -> Result<ReloadableSettings, SettingsError> {
        let failed = |problem: String| SettingsError::ConfigFile { file: self.path.clone(), problem };
        let text = fs::read_to_string(&self.path).map_err(|error| failed(error.to_string()))?;
        let file = if text.trim().is_empty() {
            File::default()
        } else {
            let mut options = serde_saphyr::Options::default();
            options.with_snippet = false;
            serde_saphyr::from_str_with_options::<File>(&text, options).map_err(|error| failed(error.to_string()))?
        };
        let limits = self.limits(&file.limits).map_err(failed)?;
        let ledger_limits = checked_limits(limits.0).map_err(|error| failed(as_fields(&error)))?;
        let mut feeds = Vec::new();
        for entry in file.feeds {
            let url = super::feed_target::redacted(&entry.url);
            let feed = self.feed(entry, ledger_limits.label_chars_max);
            feeds.push(feed.map_err(|error| failed(format!("feed {url:?}: {}", as_fields(&error))))?);
        }
        if feeds.is_empty() {
            feeds.clone_from(&self.feeds);
        }
        if feeds.len() > FEEDS_MAX {
            return Err(failed(format!(
                "there are {} feeds, and a bridge listens to at most {FEEDS_MAX}",
                feeds.len()
            )));
        }
        distinct(&feeds).map_err(|error| failed(as_fields(&error)))?;
        Ok(ReloadableSettings { feeds, ledger_limits, frame_bytes_max: limits.1 })
    }

    fn limits(&self, entries: &LimitEntries) -> Result<(Limits, usize), String> {
        let LimitEntries { skills, remembered_skills, label_chars, max_frame_bytes } = *entries;
        let within = |field: &str, value: Option<usize>, default: usize, least: usize, most: usize| match value {
            None => Ok(default),
            Some(value) if (least..=most).contains(&value) => Ok(value),
            Some(value) => Err(format!("limits.{field}: {value} is not within {least} to {most}")),
        };
        let limits = Limits {
            skills_max: within("skills", skills, self.limits.skills_max, 1, 1_000_000)?,
            remembered_skills_max: within(
                "remembered_skills",
                remembered_skills,
                self.limits.remembered_skills_max,
                1,
                2_000_000,
            )?,
            label_chars_max: within("label_chars", label_chars, self.limits.label_chars_max, 16, 4096)?,
            ..self.limits
        };
        let frame_bytes = within("max_frame_bytes", max_frame_bytes, self.frame_bytes_max, 1024, 64 * 1024 * 1024)?;
        Ok((limits, frame_bytes))
    }

    fn feed(&self, entry: FeedEntry, label_chars_max: usize) -> Result<FeedTarget, SettingsError> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let beside = |file: Option<PathBuf>| file.map(|file| folder.join(file));
        let has_own = entry.token_file.is_some() || entry.jwt_secret_file.is_some();
        let credentials = CredentialFlags {
            token_file: beside(entry.token_file),
            jwt_secret_file: beside(entry.jwt_secret_file),
            headers_file: beside(entry.headers_file),
            ca_file: beside(entry.ca_file),
            cert_file: beside(entry.cert_file),
            key_file: beside(entry.key_file),
        };
        let environment = |name: &str| {
            let secret = match name {
                super::flags::TOKEN_VARIABLE => &self.token,
                super::flags::JWT_SECRET_VARIABLE => &self.jwt_secret,
                _ => &None,
            };
            secret.as_ref().filter(|_| !has_own).map(|secret| secret.expose().into())
        };
        let subscription = super::flags::SubscriptionFlags { skill: entry.skill, credentials };
        let subscription = Subscription::new(subscription, label_chars_max, &environment)?;
        let mut target = subscription.targets(&[entry.url])?.swap_remove(0);
        if let Some(name) = entry.name {
            target.identity = checked_name("name", name, label_chars_max)?;
        }
        target.skills_db = beside(entry.skills_db);
        Ok(target)
    }
}

/// What is wrong, by the names that the fields of the file have.
fn as_fields(error: &SettingsError) -> String {
    let fields = [
        ("--feed.token-file", "token_file"),
        ("--feed.jwt-secret-file", "jwt_secret_file"),
        ("--feed.headers-file", "headers_file"),
        ("--feed.ca-file", "ca_file"),
        ("--feed.cert-file", "cert_file"),
        ("--feed.key-file", "key_file"),
        ("--feed.skills-db", "skills_db"),
        ("--feed.skill", "skill"),
        ("--feed.name", "name"),
        ("--feed.url", "url"),
        ("--limit.remembered-skills", "limits.remembered_skills"),
        ("--limit.skills", "limits.skills"),
    ];
    fields.into_iter().fold(error.to_string(), |text, (flag, field)| text.replace(flag, field))
}
