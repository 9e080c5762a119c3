//! Many histories at once: figures of a product beside those of the model.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use super::history::{Class, History};
use super::ledger::{LedgerProduct, Persistence};
use super::verdict::{Errors, ModelVerdict, Verdict, model_verdicts};
use super::world::Databases;

pub fn model_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model")
}

/// The verdicts of the model that are kept in the repository.
pub fn kept_verdicts(class: Class) -> Vec<ModelVerdict> {
    let text = std::fs::read_to_string(model_folder().join("verdicts.txt")).expect("the model's verdicts");
    model_verdicts(&text).into_iter().filter(|verdict| verdict.class == class).collect()
}

/// The verdicts of the model on other histories. Needs `python3`.
pub fn fresh_verdicts(class: Class, first: u64, last: u64) -> Vec<ModelVerdict> {
    let arguments = [class.name(), &first.to_string(), &last.to_string()].map(str::to_owned);
    let output = Command::new("python3").arg(model_folder().join("verdicts.py")).args(arguments).output();
    let output = output.expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    model_verdicts(&String::from_utf8(output.stdout).expect("verdicts are ASCII"))
}

/// Plays a history with commits at random moments, as [`assert_as_good_as_the_model`] does, where databases are read beside
/// feeds or not: when a ledger is persisted changes nothing of what it counts.
pub fn verdict_with(class: Class, databases: Databases, seed: u64) -> Verdict {
    let history = History::draw_with(class, databases, seed);
    Verdict::of(&history, &mut LedgerProduct::new(Persistence::Often(5), seed))
}

/// `judge` of each of `items`, by threads.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], judge: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let chunk = items.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let judge = &judge;
        let workers: Vec<_> =
            items.chunks(chunk).map(|items| scope.spawn(move || items.iter().map(judge).collect::<Vec<_>>())).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no verdict panics")).collect()
    })
}

#[derive(Default, Debug, Clone, Copy, PartialEq)]
pub struct Tally {
    pub histories: usize,
    pub exact: usize,
    pub over: usize,
    pub under: usize,
    pub anomalies_over: usize,
    pub anomalies_under: usize,
    pub split: usize,
    pub invocations_over: u64,
    pub invocations_under: u64,
}

impl Tally {
    pub fn of(errors: impl IntoIterator<Item = Errors>) -> Self {
        errors.into_iter().fold(Self::default(), |tally, errors| Self {
            histories: tally.histories + 1,
            exact: tally.exact + usize::from(errors.is_exact()),
            over: tally.over + usize::from(errors.over > 0),
            under: tally.under + usize::from(errors.under > 0),
            anomalies_over: tally.anomalies_over + usize::from(errors.anomalies_over > 0),
            anomalies_under: tally.anomalies_under + usize::from(errors.anomalies_under > 0),
            split: tally.split + usize::from(errors.split > 0),
            invocations_over: tally.invocations_over + errors.over,
            invocations_under: tally.invocations_under + errors.under,
        })
    }

    pub fn print(&self, who: &str) {
        let percent = |count: usize| 100.0 * count as f64 / self.histories.max(1) as f64;
        println!(
            "{who:8} {} histories: exact {:5.1} %, over {:5.1} % ({}), under {:5.1} % ({}); anomalies over {:.1} %, \
             under {:.1} %; completed and abandoned mixed up {:.1} %",
            self.histories,
            percent(self.exact),
            percent(self.over),
            self.invocations_over,
            percent(self.under),
            self.invocations_under,
            percent(self.anomalies_over),
            percent(self.anomalies_under),
            percent(self.split),
        );
    }
}

/// Asserts that no history which the model counts exactly is wrong, and that no more histories are wrong in any way. The
/// model counts totals alone: where it has them right, `completed` has to be right, too, unless the product says that
/// something could not be decided.
pub fn assert_as_good_as_the_model(of_model: &[ModelVerdict]) {
    let judged = in_parallel(of_model, |model| {
        let mut product = LedgerProduct::new(Persistence::Often(5), model.seed);
        let errors = Verdict::of(&History::draw(model.class, model.seed), &mut product).errors;
        (errors, errors.is_exact() && (errors.split == 0 || product.has_doubted()))
    });
    let wrong: Vec<_> = of_model
        .iter()
        .zip(&judged)
        .filter(|(model, (_, is_right))| model.errors.is_exact() && !is_right)
        .map(|(model, (found, _))| (model.class.name(), model.seed, found.over, found.under, found.split))
        .collect();
    let model = Tally::of(of_model.iter().map(|verdict| verdict.errors));
    let product = Tally::of(judged.into_iter().map(|(errors, _)| errors));
    model.print("model");
    product.print("product");
    assert!(wrong.is_empty(), "exact with the model and wrong here (class, seed, over, under, mixed up): {wrong:?}");
    let worse = [
        ("too many invocations", product.over, model.over),
        ("too few invocations", product.under, model.under),
        ("too many anomalies", product.anomalies_over, model.anomalies_over),
        ("too few anomalies", product.anomalies_under, model.anomalies_under),
    ];
    for (what, product, model) in worse {
        assert!(product <= model, "{product} histories have {what}; with the model {model}");
    }
}
