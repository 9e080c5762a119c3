//! Builders of feeds.

use super::{Credentials, Environment, FeedTarget, NameError, SettingsError, Timing, credentials, feed_target, flags};

/// What the flags ask of every feed alike.
pub(crate) struct Subscription {
    skill: Option<String>,
    credentials: Credentials,
}

impl Subscription {
    pub fn new(
        flags: flags::SubscriptionFlags,
        label_chars_max: usize,
        environment: Environment<'_>,
    ) -> Result<Self, SettingsError> {
        let checked = |skill| checked_name("--feed.skill", skill, label_chars_max);
        let credentials = credentials::read(flags.credentials, environment)?;
        Ok(Self { skill: flags.skill.map(checked).transpose()?, credentials })
    }

    pub fn targets(&self, urls: &[String]) -> Result<Vec<FeedTarget>, SettingsError> {
        let targets = urls.iter().map(|url| self.target(url)).collect::<Result<Vec<_>, _>>()?;
        match credentials::tls_flag(&self.credentials.tls) {
            Some(flag) if targets.iter().all(|target| target.url.scheme() != "wss") => {
                Err(SettingsError::TlsOptionWithoutTls { flag })
            }
            _ => Ok(targets),
        }
    }

    fn target(&self, url: &str) -> Result<FeedTarget, SettingsError> {
        let mut target =
            FeedTarget::new(url).map_err(|error| SettingsError::FeedUrl { url: feed_target::redacted(url), error })?;
        if let Some(skill) = &self.skill {
            target = target.with_skill(skill);
        }
        target.credentials = self.credentials.clone();
        Ok(target)
    }
}

pub(crate) fn checked_name(flag: &'static str, name: String, chars_max: usize) -> Result<String, SettingsError> {
    let chars = name.chars().count();
    let problem = match () {
        () if name.trim().is_empty() => NameError::Empty,
        () if chars > chars_max => NameError::TooLong { chars, chars_max },
        () if name.contains(char::is_control) => NameError::ControlCharacter,
        () => return Ok(name),
    };
    Err(SettingsError::Name { flag, name, problem })
}

pub(crate) fn timing(flags: &flags::ConnectionFlags) -> Timing {
    Timing { silence_timeout: flags.silence_timeout, ..Timing::default() }
}
