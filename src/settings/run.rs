//! Builders of the settings of `run`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::flags::{self, FEED_URL_DEFAULT};
use super::subscription::{Subscription, checked_name, timing};
use super::{
    ConfigFile, Environment, FEEDS_MAX, FeedTarget, ReloadableSettings, Secret, Settings, SettingsError, StateLocation,
    check_path, limits, push, state_path, web,
};
use crate::reload::Sources;

/// # Errors
/// The first setting that cannot be used.
pub(crate) fn settings(flags: flags::RunFlags, environment: Environment<'_>) -> Result<Settings, SettingsError> {
    let given = feed_setting_given(&flags);
    let push_given = push::setting_given(&flags.push);
    let flags::RunFlags {
        config,
        feeds: feed_flags,
        connection,
        web,
        state,
        push: push_flags,
        skills,
        limits: limit_flags,
        log,
    } = flags;
    let ledger_limits = limits::from_flags(&limit_flags)?;
    let flags::FeedFlags { urls, names, skills_dbs, subscription } = feed_flags;
    check_number(urls.len())?;
    if !names.is_empty() && names.len() != urls.len() {
        return Err(SettingsError::NameCountMismatch { names: names.len(), urls: urls.len() });
    }
    let subscription = Subscription::new(subscription, ledger_limits.label_chars_max, environment)?;
    let mut feeds = subscription.targets(&urls)?;
    for (feed, name) in feeds.iter_mut().zip(names) {
        feed.identity = checked_name("--feed.name", name, ledger_limits.label_chars_max)?;
    }
    assign_databases(&mut feeds, skills_dbs)?;
    check_distinct(&feeds)?;
    let push = push::from_flags(push_flags, config.file.is_some(), ledger_limits.label_chars_max)?;
    let secret = |variable| {
        let value = environment(variable).and_then(|value| value.into_string().ok());
        value.filter(|value| !value.trim().is_empty()).map(Secret::new)
    };
    let frame_bytes_max = connection.frame_bytes_max as usize;
    let skills_dirs = skills.directories()?;
    let from_flags = ReloadableSettings { feeds, ledger_limits, frame_bytes_max, push, skills_dirs };
    let mut config_file = config.file.map(|path| ConfigFile {
        path,
        feeds: from_flags.feeds.clone(),
        limits: ledger_limits,
        frame_bytes_max: from_flags.frame_bytes_max,
        push: from_flags.push.clone(),
        skills_dirs: from_flags.skills_dirs.clone(),
        token: secret(flags::TOKEN_VARIABLE),
        jwt_secret: secret(flags::JWT_SECRET_VARIABLE),
        opened: Sources::default(),
    });
    let ReloadableSettings { feeds, ledger_limits, frame_bytes_max, push, skills_dirs } = match &mut config_file {
        None => from_flags,
        Some(file) => {
            let configured = file.open()?;
            if let Some(setting) = given.filter(|_| configured.feeds != from_flags.feeds) {
                return Err(SettingsError::ConflictingFeeds { file: file.path.clone(), setting });
            }
            if let Some(setting) = push_given.filter(|_| configured.push != from_flags.push) {
                return Err(SettingsError::ConflictingPush { file: file.path.clone(), setting });
            }
            if !from_flags.skills_dirs.is_empty() && configured.skills_dirs != from_flags.skills_dirs {
                return Err(SettingsError::ConflictingSkillsDirs { file: file.path.clone() });
            }
            configured
        }
    };
    Ok(Settings {
        frame_bytes_max,
        push,
        skills_dirs,
        config_file,
        timing: timing(&connection),
        state: match state {
            flags::StateFlags { disabled: true, .. } => StateLocation::InMemory,
            flags::StateFlags { path: Some(path), .. } => {
                check_path("--state.path", &path)?;
                StateLocation::Path(path)
            }
            flags::StateFlags { path: None, .. } => StateLocation::Default(state_path::default(environment)),
        },
        ..web::settings(web, ledger_limits, &log, feeds)?
    })
}

/// Returns the first flag that configures feeds.
fn feed_setting_given(flags: &flags::RunFlags) -> Option<&'static str> {
    let flags::FeedFlags { urls, names, skills_dbs, subscription } = &flags.feeds;
    let credentials = &subscription.credentials;
    let given = [
        ("--feed.url", *urls != [FEED_URL_DEFAULT]),
        ("--feed.name", !names.is_empty()),
        ("--feed.skills-db", !skills_dbs.is_empty()),
        ("--feed.skill", subscription.skill.is_some()),
        ("--feed.token-file", credentials.token_file.is_some()),
        ("--feed.jwt-secret-file", credentials.jwt_secret_file.is_some()),
        ("--feed.headers-file", credentials.headers_file.is_some()),
        ("--feed.ca-file", credentials.ca_file.is_some()),
        ("--feed.cert-file", credentials.cert_file.is_some()),
        ("--feed.key-file", credentials.key_file.is_some()),
    ];
    given.into_iter().find(|(_, is_given)| *is_given).map(|(flag, _)| flag)
}

/// Refuses more feeds than one bridge subscribes to, and two with one identity or with one database.
pub(super) fn check_feeds(feeds: &[FeedTarget]) -> Result<(), SettingsError> {
    check_number(feeds.len())?;
    check_distinct(feeds)
}

fn check_number(urls: usize) -> Result<(), SettingsError> {
    if urls > FEEDS_MAX {
        return Err(SettingsError::TooManyFeeds { urls, feeds_max: FEEDS_MAX });
    }
    Ok(())
}

/// Refuses two feeds with one identity, or with one database.
pub(super) fn check_distinct(feeds: &[FeedTarget]) -> Result<(), SettingsError> {
    let (mut identities, mut databases) = (BTreeSet::new(), BTreeSet::new());
    for FeedTarget { identity, skills_db, .. } in feeds {
        if !identities.insert(identity) {
            return Err(SettingsError::DuplicateIdentity { identity: identity.clone() });
        }
        if let Some(path) = skills_db.as_ref().filter(|path| !databases.insert(*path)) {
            return Err(SettingsError::DuplicateSkillsDb { path: path.clone() });
        }
    }
    Ok(())
}

/// Assigns each feed its database: one for each, in the same order, `none` for a feed without one.
fn assign_databases(feeds: &mut [FeedTarget], databases: Vec<PathBuf>) -> Result<(), SettingsError> {
    if databases.is_empty() {
        return Ok(());
    }
    if databases.len() != feeds.len() {
        return Err(SettingsError::SkillsDbCountMismatch { databases: databases.len(), urls: feeds.len() });
    }
    for (feed, path) in feeds.iter_mut().zip(databases) {
        check_path("--feed.skills-db", &path)?;
        feed.skills_db = Some(path).filter(|path| path.as_os_str() != "none");
    }
    Ok(())
}
