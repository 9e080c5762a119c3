//! Everything that a commit can execute, by number.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, params_from_iter};

use super::record::Record;
use super::{
    address, agreed, anomaly, anomaly_count, anomaly_tally, counter, damage, database, event_id, failure_count, feed,
    fingerprint, listing_history, phase, session, skill, source, source_skill,
};

/// What a statement does.
enum Action {
    Sql(&'static str),
    /// What SQL cannot express.
    Call(fn(&Connection, &[ValueRef<'_>]) -> rusqlite::Result<()>),
}

/// Declares [`Statement`]: `statements! { number Name = action, ... }`.
macro_rules! statements {
    ($($number:literal $name:ident = $action:expr,)*) => {
        /// A statement of a commit. Its number is in the journals of state files: none is changed or given to another statement,
        /// and the parameters of each stay what they are, within a version of the schema.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(in crate::store) enum Statement {
            $($name = $number,)*
        }

        impl Statement {
            /// Returns the statement with a number; `None` if there is none.
            pub fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            fn action(self) -> Action {
                match self {
                    $(Self::$name => $action,)*
                }
            }
        }
    };
}

use Action::{Call, Sql};

statements! {
    1 UpsertCounter = Sql(counter::CounterRecord::upsert()),
    2 UpsertSkill = Sql(skill::SkillRecord::upsert()),
    3 ListSkill = Sql("UPDATE skill SET last_listed_micros = ? WHERE place = ?"),
    4 UpsertPhase = Sql(phase::PhaseRecord::upsert()),
    5 UpsertAnomalyCount = Sql(anomaly_count::AnomalyCountRecord::upsert()),
    6 UpsertFailureCount = Sql(failure_count::FailureCountRecord::upsert()),
    7 RemoveSource = Call(source::remove),
    8 UpsertSource = Sql(source::SourceRow::upsert()),
    9 UpsertFeed = Sql(feed::FeedRow::upsert()),
    10 ClearAgreed = Sql("DELETE FROM agreed WHERE feed = ?"),
    11 UpsertAgreed = Sql(agreed::AgreedRow::upsert()),
    12 DeleteAddress = Sql("DELETE FROM address WHERE address = ?"),
    13 UpsertAddress = Sql(address::AddressRow::upsert()),
    14 UpsertSourceSkill = Sql(source_skill::SourceSkillRow::upsert()),
    15 UpsertHistory = Sql(listing_history::HistoryRow::upsert()),
    16 ExtendHistory = Call(listing_history::extend),
    17 ClearDamages = Sql("DELETE FROM damage WHERE source = ?"),
    18 UpsertDamage = Sql(damage::DamageRow::upsert()),
    19 UpsertTally = Sql(anomaly_tally::TallyRow::upsert()),
    20 DeleteAnomaly = Sql(
        "DELETE FROM anomaly WHERE source = ? AND skill_name = ? AND anomaly_type = ? AND detected_at = ? AND score = ?"
    ),
    21 UpsertAnomaly = Sql(anomaly::AnomalyRow::upsert()),
    22 DeleteEventIds = Sql("DELETE FROM event_id WHERE source = ? AND sequence < ?"),
    23 UpsertEventId = Sql(event_id::EventIdRow::upsert()),
    24 ClearSessions = Sql("DELETE FROM session WHERE feed = ?"),
    25 DeleteSession = Sql("DELETE FROM session WHERE feed = ? AND id = ?"),
    26 UpsertSession = Sql(session::SessionRow::upsert()),
    27 UpsertDatabase = Sql(database::DatabaseRow::upsert()),
    28 ClearFingerprints = Sql("DELETE FROM fingerprint WHERE source = ? AND table_name = ?"),
    29 DeleteFingerprint = Sql("DELETE FROM fingerprint WHERE source = ? AND table_name = ? AND branch = 0 AND key = ?"),
    30 UpsertFingerprint = Sql(fingerprint::FingerprintRow::upsert()),
}

impl Statement {
    /// Executes the statement.
    ///
    /// # Errors
    /// Whatever SQLite answers; a number of parameters that is not the statement's.
    pub fn execute(self, connection: &Connection, parameters: &[ValueRef<'_>]) -> rusqlite::Result<()> {
        match self.action() {
            Sql(text) => {
                let parameters = parameters.iter().map(|value| ToSqlOutput::Borrowed(*value));
                connection.prepare_cached(text)?.execute(params_from_iter(parameters)).map(drop)
            }
            Call(function) => function(connection, parameters),
        }
    }
}
