//! The simulated databases as SQLite files with the tables of Session-Buddy, for products that read them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::rc::Rc;

use rusqlite::{Transaction, params};

use super::database::{Content, Invocation, InvocationId};
use super::world::Written;
use crate::support::model::{SECOND, sql_time};
use crate::support::server_database::{ServerDatabase, remove_files};

/// The mirror writes `skill_metrics` itself, and gives each row its key.
const WITHOUT_TRIGGER: &str = "
DROP TRIGGER metrics;
INSERT INTO sqlite_sequence VALUES ('skill_invocation', 0), ('skill_anomalies', 0);
";

/// All files of one history.
pub struct Mirror {
    folder: tempfile::TempDir,
    /// By number, from 1.
    invocations: Vec<Invocation>,
    files: HashMap<String, File>,
}

struct File {
    number: u32,
    database: ServerDatabase,
    content: Content,
}

impl Mirror {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, invocations: Vec::new(), files: HashMap::new() }
    }

    /// Where the file of this simulated path is.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn write(&mut self, written: &Written) {
        for (id, invocation) in &written.new_invocations {
            assert_eq!(*id as usize, self.invocations.len() + 1, "invocations come in their order");
            self.invocations.push(*invocation);
        }
        let path = self.path(&written.path);
        if self.files.get(&written.path).is_none_or(|file| file.number != written.file) {
            // Closed before its files are removed: it would write into those of the new one.
            drop(self.files.remove(&written.path));
            remove_files(&path);
            let database = ServerDatabase::create(&path);
            database.execute(WITHOUT_TRIGGER);
            let file = File { number: written.file, database, content: Content::default() };
            self.files.insert(written.path.clone(), file);
        }
        let Self { invocations, files, .. } = self;
        let file = files.get_mut(&written.path).expect("it was opened");
        let transaction = file.database.connection.transaction().expect("a transaction");
        write_invocations(&transaction, invocations, &file.content, &written.content);
        write_metrics(&transaction, &file.content, &written.content);
        write_anomalies(&transaction, &file.content, &written.content);
        let mut sequence =
            transaction.prepare_cached("UPDATE sqlite_sequence SET seq = ? WHERE name = ?").expect("a statement");
        sequence.execute(params![written.content.invocations_sequence, "skill_invocation"]).expect("a sequence");
        sequence.execute(params![written.content.anomalies_sequence, "skill_anomalies"]).expect("a sequence");
        drop(sequence);
        transaction.commit().expect("a commit");
        file.content = written.content.clone();
    }
}

/// The invocations of one skill that `before` has and `after` has not, and the other way round: where two chains part.
fn difference(
    invocations: &[Invocation],
    mut before: Option<InvocationId>,
    mut after: Option<InvocationId>,
) -> (Vec<InvocationId>, Vec<InvocationId>) {
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    let previous = |id: InvocationId| invocations[id as usize - 1].previous;
    while before != after {
        // Invocations are numbered in their order, so that the greater one cannot be behind the other.
        if after > before {
            let id = after.expect("it is greater than another");
            added.push(id);
            after = previous(id);
        } else {
            let id = before.expect("it is greater than another");
            removed.push(id);
            before = previous(id);
        }
    }
    (removed, added)
}

fn write_invocations(transaction: &Transaction<'_>, invocations: &[Invocation], before: &Content, after: &Content) {
    let newest = |content: &Content| -> BTreeMap<Rc<str>, Option<InvocationId>> {
        content.skills.iter().map(|(name, totals)| (name.clone(), totals.newest)).collect()
    };
    let (before, after) = (newest(before), newest(after));
    let (mut removed, mut added) = (BTreeSet::new(), BTreeMap::new());
    for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let of = |content: &BTreeMap<Rc<str>, Option<InvocationId>>| content.get(name).copied().flatten();
        let (gone, new) = difference(invocations, of(&before), of(&after));
        removed.extend(gone);
        added.extend(new.into_iter().map(|id| (id, name)));
    }
    let key = |id: InvocationId| invocations[id as usize - 1].key;
    let statement = |sql| transaction.prepare_cached(sql).expect("a statement");
    let mut delete = statement("DELETE FROM skill_invocation WHERE id = ?");
    for id in removed.iter().filter(|id| !added.contains_key(id)) {
        delete.execute([key(*id)]).expect("a row deleted");
    }
    let mut rename = statement("UPDATE skill_invocation SET skill_name = ? WHERE id = ?");
    let mut insert = statement(
        "INSERT INTO skill_invocation (id, skill_name, invoked_at, session_id, completed, duration_seconds)
         VALUES (?, ?, ?, 's', ?, ?)",
    );
    for (id, name) in added {
        let invocation = invocations[id as usize - 1];
        if removed.contains(&id) {
            rename.execute(params![&**name, invocation.key]).expect("a row renamed");
        } else {
            // No two invocations of a history were invoked at the same time.
            let invoked_at = format!("2026-11-22 09:00:00.{id:09}");
            let Invocation { key, completed, duration_seconds, .. } = invocation;
            insert.execute(params![key, &**name, invoked_at, completed, duration_seconds]).expect("a row");
        }
    }
}

fn write_metrics(transaction: &Transaction<'_>, before: &Content, after: &Content) {
    let statement = |sql| transaction.prepare_cached(sql).expect("a statement");
    let mut delete = statement("DELETE FROM skill_metrics WHERE skill_name = ?");
    for (name, _) in before.skills.iter().filter(|(name, _)| !after.skills.iter().any(|(other, _)| other == name)) {
        delete.execute([&**name]).expect("a skill deleted");
    }
    let mut write = statement("INSERT OR REPLACE INTO skill_metrics VALUES (?, ?, ?, ?)");
    for (name, totals) in after.skills.iter().filter(|skill| !before.skills.contains(skill)) {
        write.execute(params![&**name, totals.total, totals.completed, totals.duration_seconds]).expect("a skill");
    }
}

fn write_anomalies(transaction: &Transaction<'_>, before: &Content, after: &Content) {
    let statement = |sql| transaction.prepare_cached(sql).expect("a statement");
    let common = before.anomalies.iter().zip(&after.anomalies).take_while(|(one, other)| one == other).count();
    let mut delete = statement("DELETE FROM skill_anomalies WHERE id = ?");
    for anomaly in &before.anomalies[common..] {
        delete.execute([anomaly.key]).expect("an anomaly deleted");
    }
    let mut insert = statement(
        "INSERT INTO skill_anomalies (id, skill_name, detected_at, anomaly_type, deviation_score) VALUES (?, ?, ?, ?, ?)",
    );
    for anomaly in &after.anomalies[common..] {
        let detected_at = sql_time(anomaly.detected_at_seconds * SECOND).replace(' ', "T");
        insert
            .execute(params![
                anomaly.key,
                &*anomaly.skill_name,
                detected_at,
                anomaly.anomaly_type(),
                anomaly.deviation_score
            ])
            .expect("an anomaly");
    }
}
