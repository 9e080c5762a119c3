//! The samples of a skill as data, for remote write.

use super::family_kind::FamilyKind;
use super::skill_view::SkillView;
use super::zero_first::Zeros;

/// A sample of a skill, with the value that the ledger has, whatever scrapes expose at 0 just now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SkillSample<'a> {
    /// Name of the family.
    pub name: &'static str,
    /// What the name of the sample has behind it.
    pub suffix: &'static str,
    /// In the order of a scrape. One without a name is none.
    pub labels: [(&'static str, &'a str); 4],
    /// Its value.
    pub value: f64,
    /// Whether it only increases.
    pub is_counter: bool,
    /// Whether it is one of the bridge's own metrics, not of the five families.
    pub is_own: bool,
}

/// How many samples each family has for a skill. Two moments of a skill at which it is the same have the same series in the same
/// order: phases and types are added and never removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SkillShape([usize; FamilyKind::ALL.len()]);

impl SkillShape {
    /// Returns the present shape of `skill`.
    pub fn of(skill: &SkillView) -> Self {
        Self(FamilyKind::ALL.map(|kind| kind.samples(skill)))
    }
}

/// Calls `each` with every sample of `skill`, in an order that depends on its series only.
pub fn each_skill_sample(skill: &SkillView, mut each: impl FnMut(SkillSample<'_>)) {
    for kind in FamilyKind::ALL {
        let (is_counter, is_own) = (kind.is_counter(), kind.is_own());
        kind.each_sample_but(&Zeros::default(), skill, |sample| {
            let (name, suffix, labels) = (sample.name, sample.suffix, sample.labels);
            each(SkillSample { name, suffix, labels, value: sample.value.number(), is_counter, is_own });
        });
    }
}
