//! A simulated server's database: what its snapshots list, and which invocations those numbers stand for.

use std::collections::VecDeque;
use std::rc::Rc;

use super::python_random::PythonRandom;

/// How the durations of a database look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// All digits of a double.
    Real,
    /// Whole milliseconds.
    Millis,
    /// Whole seconds.
    LedgerState,
    /// No durations.
    Null,
    /// Each database draws one of the others.
    Mix,
}

impl Style {
    /// The style of one database.
    pub fn of_database(self, random: &mut PythonRandom) -> Self {
        match self {
            Self::Mix => {
                [Self::Real, Self::Millis, Self::LedgerState, Self::Null][random.weighted([70.0, 15.0, 8.0, 7.0])]
            }
            style => style,
        }
    }

    fn duration(self, random: &mut PythonRandom) -> Option<f64> {
        if self == Self::Null {
            return None;
        }
        let seconds = random.log_normal(0.5, 1.0);
        Some(match self {
            Self::Millis => format!("{seconds:.3}").parse().expect("digits are a number"),
            Self::LedgerState => seconds.round_ties_even().max(1.0),
            Self::Real | Self::Null | Self::Mix => seconds,
        })
    }
}

/// One invocation of the whole history, in whatever databases and under whatever names it stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Invocation {
    /// The previous invocation of the same skill in the database in which this one happened: databases with a common
    /// past share the beginning of their chains.
    pub previous: Option<InvocationId>,
    /// Whether it was completed.
    pub completed: bool,
    /// Seconds, if it was completed and has a duration.
    pub duration_seconds: Option<f64>,
    /// Its primary key.
    pub key: u64,
}

/// The identity of an invocation, from 1 in the order of the history.
pub type InvocationId = u32;

/// The row of one skill in `skill_metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Totals {
    pub total: u64,
    pub completed: u64,
    /// Over completed invocations, in seconds.
    pub duration_seconds: f64,
    /// The newest of the invocations that these numbers stand for.
    pub newest: Option<InvocationId>,
}

/// One row of `skill_anomalies`.
#[derive(Debug, Clone, PartialEq)]
pub struct Anomaly {
    /// The invocation at which it was detected.
    pub id: InvocationId,
    /// Its primary key.
    pub key: u64,
    pub skill_name: Rc<str>,
    pub detected_at_seconds: i64,
    pub deviation_score: f64,
}

impl Anomaly {
    /// Its type, of which no generator decides anything.
    pub fn anomaly_type(&self) -> &'static str {
        if self.id.is_multiple_of(2) { "drop" } else { "spike" }
    }
}

/// The content of a database at one time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Content {
    /// In the order of first insertion.
    pub skills: Vec<(Rc<str>, Totals)>,
    pub anomalies: Vec<Anomaly>,
    /// The last primary keys that were given, as in `sqlite_sequence`.
    pub invocations_sequence: u64,
    pub anomalies_sequence: u64,
}

impl Content {
    pub fn skill_mut(&mut self, name: &Rc<str>) -> &mut Totals {
        let at = self.skills.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.skills.push((name.clone(), Totals::default()));
            self.skills.len() - 1
        });
        &mut self.skills[at].1
    }

    /// Takes a skill out; the others keep their order.
    pub fn remove(&mut self, name: &Rc<str>) -> Totals {
        let at = self.skills.iter().position(|(known, _)| known == name).expect("only a known skill is removed");
        self.skills.remove(at).1
    }

    /// Whether it is `past` and what was added since.
    pub fn follows(&self, past: &Self, invocations: &[Invocation]) -> bool {
        past.skills.iter().all(|(name, then)| {
            let now = self.skills.iter().find(|(known, _)| known == name).map(|(_, now)| now);
            now.is_some_and(|now| {
                let mut chain = std::iter::successors(now.newest, |id| invocations[*id as usize - 1].previous);
                now == then || (now.total > then.total && chain.any(|id| Some(id) == then.newest))
            })
        })
    }

    /// How improbable it is that another database lists the same: by the totals alone, without the durations.
    pub fn bits_of_equality(&self, listed: &[(Rc<str>, Totals)]) -> f64 {
        let is_same = |listed: &&(Rc<str>, Totals)| self.skills.contains(listed);
        listed.iter().filter(is_same).map(|(_, totals)| (totals.total as f64 + 1.0).log2()).sum()
    }

    pub fn sorted_names(&self) -> Vec<Rc<str>> {
        let mut names: Vec<_> = self.skills.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// The ten skills with the most invocations.
    pub fn top_ten(&self) -> Vec<(Rc<str>, Totals)> {
        let mut top: Vec<_> = self.skills.iter().filter(|(_, totals)| totals.total > 0).cloned().collect();
        top.sort_by(|(name, a), (other, b)| b.total.cmp(&a.total).then_with(|| name.cmp(other)));
        top.truncate(10);
        top
    }
}

/// A database file with its traffic.
#[derive(Debug, Clone)]
pub struct Database {
    pub style: Style,
    /// The skills that are invoked, the most frequent first.
    pub names: Vec<Rc<str>>,
    /// Invocations a second, on average over two seconds of a round.
    pub rate: f64,
    pub content: Content,
    /// Which file it is: another one can take its place under the same path.
    pub file: u32,
    /// What a power cut can bring back: the last four half rounds.
    pub past: VecDeque<Content>,
}

impl Database {
    pub fn new(style: Style, names: Vec<Rc<str>>, rate: f64) -> Self {
        Self { style, names, rate, content: Content::default(), file: 0, past: VecDeque::new() }
    }

    /// A copy of the file: the content, not what a power cut would leave.
    pub fn copy(&self) -> Self {
        Self { past: VecDeque::new(), ..self.clone() }
    }

    /// Replaces the content as a backup or a power cut does.
    pub fn set(&mut self, content: Content) {
        self.content = content;
    }

    pub fn remember(&mut self) {
        if self.past.len() == 4 {
            self.past.pop_front();
        }
        self.past.push_back(self.content.clone());
    }

    /// One invocation, of `name` or of a skill by frequency. Returns the name.
    pub fn invoke(
        &mut self,
        name: Option<Rc<str>>,
        now_seconds: i64,
        random: &mut PythonRandom,
        invocations: &mut Vec<Invocation>,
    ) -> Rc<str> {
        let name = name.unwrap_or_else(|| {
            let weights = (0..self.names.len()).map(|rank| 1.0 / (rank + 1) as f64);
            self.names[random.weighted(weights)].clone()
        });
        let style = self.style;
        let totals = self.content.skill_mut(&name);
        let completed = {
            totals.total += 1;
            random.happens(0.85)
        };
        let mut duration_seconds = None;
        if completed {
            totals.completed += 1;
            duration_seconds = style.duration(random);
            totals.duration_seconds += duration_seconds.unwrap_or(0.0);
        }
        let previous = totals.newest;
        let id = InvocationId::try_from(invocations.len() + 1).expect("histories are short");
        totals.newest = Some(id);
        self.content.invocations_sequence += 1;
        let key = self.content.invocations_sequence;
        invocations.push(Invocation { previous, completed, duration_seconds, key });
        if random.happens(0.02) {
            let deviation_score = random.uniform(2.0, 5.0);
            self.content.anomalies_sequence += 1;
            let key = self.content.anomalies_sequence;
            let skill_name = name.clone();
            let anomaly = Anomaly { id, key, skill_name, detected_at_seconds: now_seconds, deviation_score };
            self.content.anomalies.push(anomaly);
        }
        name
    }

    /// How many invocations happen where `mean` are expected (Poisson).
    pub fn arrivals(random: &mut PythonRandom, mean: f64) -> usize {
        if mean > 30.0 {
            return random.gauss(mean, mean.sqrt()).max(0.0) as usize;
        }
        let (bound, mut product, mut arrivals) = ((-mean).exp(), 1.0, 0);
        loop {
            product *= random.unit();
            if product <= bound {
                return arrivals;
            }
            arrivals += 1;
        }
    }
}
