//! Builders of the tasks of the commands beside `run`.

use std::ffi::OsString;
use std::time::Duration;

use super::subscription::{Subscription, checked_name, timing};
use super::tasks::{CheckTask, DemoTask, ExplainTask, Explained, HealthcheckTask, RecordTask, ReplayTask};
use super::{Limits, SettingsError, feed_target, flags, healthcheck_url, limits, web};
use crate::demo::DemoSettings;

pub(super) fn demo(flags: flags::DemoFlags) -> Result<DemoTask, SettingsError> {
    let any_port = flags.web.listen_addresses.is_empty();
    let feed = DemoSettings {
        seed: flags.seed,
        invocations_per_second: flags.invocations_per_second.into(),
        ..DemoSettings::default()
    };
    let mut bridge = web::settings(flags.web, limits::from_flags(&flags.limits)?, &flags.log, Vec::new())?;
    if any_port {
        // One address, so that one URL is printed and the other port is as good as the default one.
        bridge.listen.truncate(1);
    }
    Ok(DemoTask { feed, bridge, any_port })
}

pub(super) fn record(
    flags: flags::RecordFlags,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<RecordTask, SettingsError> {
    let subscription = Subscription::new(flags.subscription, Limits::default().label_chars_max, environment)?;
    Ok(RecordTask {
        file: flags.file,
        duration: Duration::from_secs(flags.seconds),
        feed: subscription.targets(&[flags.url])?.swap_remove(0),
        frame_bytes_max: flags.connection.frame_bytes_max as usize,
        timing: timing(&flags.connection),
        log: flags.log.settings(),
    })
}

pub(super) fn check(
    flags: flags::CheckFlags,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<CheckTask, SettingsError> {
    let ledger_limits = limits::from_flags(&flags.limits)?;
    let subscription = Subscription::new(flags.subscription, ledger_limits.label_chars_max, environment)?;
    Ok(CheckTask {
        feed: subscription.targets(&[flags.url])?.swap_remove(0),
        duration: Duration::from_secs(flags.seconds),
        frame_bytes_max: flags.connection.frame_bytes_max as usize,
        timing: timing(&flags.connection),
        ledger_limits,
        log: flags.log.settings(),
    })
}

pub(super) fn explain(
    flags: flags::ExplainFlags,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<ExplainTask, SettingsError> {
    let ledger_limits = limits::from_flags(&flags.limits)?;
    let checked = |flag, skill| checked_name(flag, skill, ledger_limits.label_chars_max);
    let what = match flags.file {
        Some(file) => {
            let subscribed = flags.subscription.skill.map(|skill| checked("--feed.skill", skill)).transpose()?;
            Explained::Recording { file, subscribed }
        }
        None => {
            let subscription = Subscription::new(flags.subscription, ledger_limits.label_chars_max, environment)?;
            Explained::Feed {
                target: Box::new(subscription.targets(&[flags.url])?.swap_remove(0)),
                frame_bytes_max: flags.connection.frame_bytes_max as usize,
                timing: timing(&flags.connection),
                duration: Duration::from_secs(flags.seconds),
            }
        }
    };
    Ok(ExplainTask {
        what,
        skill: flags.only_skill.map(|skill| checked("--skill", skill)).transpose()?,
        ledger_limits,
        log: flags.log.settings(),
    })
}

pub(super) fn replay(flags: flags::ReplayFlags) -> Result<ReplayTask, SettingsError> {
    let ledger_limits = limits::from_flags(&flags.limits)?;
    let checked = |skill| checked_name("--feed.skill", skill, ledger_limits.label_chars_max);
    Ok(ReplayTask {
        file: flags.file,
        skill: flags.skill.map(checked).transpose()?,
        ledger_limits,
        log: flags.log.settings(),
    })
}

pub(super) fn healthcheck(flags: flags::HealthcheckFlags) -> Result<HealthcheckTask, SettingsError> {
    let url = healthcheck_url::read(&flags.url)
        .map_err(|error| SettingsError::HealthcheckUrl { url: feed_target::redacted(&flags.url), error })?;
    Ok(HealthcheckTask { url, timeout: flags.timeout, log: flags.log.settings() })
}
