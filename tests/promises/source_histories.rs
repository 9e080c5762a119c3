//! Random histories of servers, databases and configurations are counted at least as exactly as the model counts them.
//!
//! The model is `tests/model`; its verdicts on the histories of this test are in `tests/model/verdicts.txt`. 50 histories of
//! each class; `SESSION_BUDDY_BRIDGE_LONG=1` plays all of the verdicts', and 1,000 more for which the model is run.
//!
//! For whoever works on the ledger (`--nocapture` shows the output):
//!
//! ```text
//! CLASS=calm-configuration SEEDS=1..150 cargo test --test promises table_of_errors -- --ignored --nocapture
//! CLASS=calm-configuration SEED=17      cargo test --test promises trace_of_one_history -- --ignored --nocapture
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::process::Command;

use crate::support::histories::{
    Class, Databases, Errors, Event, History, LedgerProduct, Persistence, Product, Tally, Verdict,
    assert_as_good_as_the_model, describe, digest, fresh_verdicts, in_parallel, kept_verdicts, model_folder, play,
    verdict_with,
};
use crate::support::is_long;
use serde::Deserialize;
use session_buddy_bridge::internals::ledger::LedgerState;

/// Histories of each class in the short form.
const HISTORIES: usize = 50;

fn is_as_good_as_the_model(class: Class) {
    let mut of_model = kept_verdicts(class);
    if is_long() {
        of_model.extend(fresh_verdicts(class, 1_001, 2_000));
    } else {
        of_model.truncate(HISTORIES);
    }
    assert_as_good_as_the_model(&of_model);
}

#[test]
fn histories_of_configurations_at_peoples_pace_are_counted_as_well_as_by_the_model() {
    is_as_good_as_the_model(Class::CalmConfiguration);
}

#[test]
fn histories_of_configurations_of_busy_servers_are_counted_as_well_as_by_the_model() {
    is_as_good_as_the_model(Class::HardConfiguration);
}

#[test]
fn histories_of_database_maintenance_are_counted_as_well_as_by_the_model() {
    is_as_good_as_the_model(Class::CalmMaintenance);
}

#[test]
fn histories_of_everything_are_counted_as_well_as_by_the_model() {
    is_as_good_as_the_model(Class::CalmAll);
}

#[test]
fn histories_of_everything_with_busy_servers_are_counted_as_well_as_by_the_model() {
    is_as_good_as_the_model(Class::HardAll);
}

/// What a killed bridge had not persisted is listed again, since nothing leaves these databases.
#[test]
fn a_bridge_that_is_killed_instead_of_stopped_counts_the_same() {
    let classes = [Class::CalmConfiguration, Class::HardConfiguration];
    let of_model: Vec<_> = classes
        .into_iter()
        .flat_map(|class| kept_verdicts(class).into_iter().take(if is_long() { usize::MAX } else { HISTORIES / 2 }))
        .filter(|model| model.errors.is_exact())
        .collect();
    let verdicts = in_parallel(&of_model, |model| {
        let product = &mut LedgerProduct::new(Persistence::OftenAndKilled(30), model.seed);
        Verdict::at_the_end(&History::draw(model.class, model.seed), product)
    });
    let wrong: Vec<_> = of_model
        .iter()
        .zip(verdicts)
        .filter(|(_, errors)| !errors.is_exact())
        .map(|(model, errors)| (model.class.name(), model.seed, errors.over, errors.under))
        .collect();
    assert!(wrong.is_empty(), "exact with the model and wrong here (class, seed, over, under): {wrong:?}");
}

/// Every record of a state, but for the times that are persisted only with something else.
fn records(mut whole: LedgerState) -> BTreeSet<String> {
    fn lines<T: std::fmt::Debug>(records: &[T]) -> impl Iterator<Item = String> + '_ {
        records.iter().map(|record| format!("{} {record:?}", std::any::type_name::<T>()))
    }
    whole.memory.sources.iter_mut().for_each(|source| (source.active_micros, source.previous_micros) = (0, None));
    whole
        .memory
        .anomalies
        .iter_mut()
        .filter_map(|(_, record)| record.as_mut())
        .for_each(|record| record.seen_micros = 0);
    // One that says nothing is as good as none.
    whole.memory.databases.retain(|known| {
        (known.invocations_cursor, known.anomalies_cursor, known.remembered_until, known.moved_alone)
            != (0, 0, 0, false)
    });
    whole.skills.iter_mut().for_each(|skill| skill.last_listed_micros = 0);
    let memory = &whole.memory;
    lines(&whole.skills)
        .chain(lines(&memory.feeds))
        .chain(lines(&memory.agreed))
        .chain(lines(&memory.addresses))
        .chain(lines(&memory.sources))
        .chain(lines(&memory.skills))
        .chain(lines(&memory.histories))
        .chain(lines(&memory.damages))
        .chain(lines(&memory.tallies))
        .chain(lines(&memory.anomalies))
        .chain(lines(&memory.databases))
        .chain(lines(&memory.fingerprints))
        .collect()
}

/// Whatever changes is committed: a restart forgets nothing, and remembers nothing that was forgotten before it.
#[test]
fn what_is_committed_change_by_change_is_everything() {
    let plans: Vec<_> = Class::ALL
        .into_iter()
        .flat_map(|class| (1..=if is_long() { 150 } else { 5 }).map(move |seed| (class, seed)))
        .flat_map(|(class, seed)| [Databases::None, Databases::All].map(|databases| (class, databases, seed)))
        .collect();
    let wrong = in_parallel(&plans, |(class, databases, seed)| {
        let history = History::draw_with(*class, *databases, *seed);
        let mut wrong = None;
        play(&history, &mut LedgerProduct::new(Persistence::Often(50), *seed), |at_seconds, event, product| {
            if matches!(event, Event::Truth(_)) && wrong.is_none() {
                let (in_steps, at_once) = product.states(at_seconds);
                let (in_steps, at_once) = (records(in_steps), records(at_once));
                let difference: Vec<_> = in_steps.symmetric_difference(&at_once).cloned().collect();
                wrong = (!difference.is_empty()).then_some((class.name(), *databases, *seed, at_seconds, difference));
            }
        });
        wrong
    });
    let wrong: Vec<_> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} of {} histories: {:#?}", wrong.len(), plans.len(), wrong[0]);
}

/// Histories, of all classes, in which nothing is in doubt: see [`History::is_beyond_doubt`]. At least one of `judged_of` is.
fn databases_are_counted_exactly(databases: Databases, judged_of: usize) {
    let plans: Vec<_> =
        Class::ALL.into_iter().flat_map(|class| (1..=seeds_with_databases()).map(move |seed| (class, seed))).collect();
    let verdicts = in_parallel(&plans, |(class, seed)| {
        let history = History::draw_with(*class, databases, *seed);
        let product = &mut LedgerProduct::new(Persistence::Often(5), *seed);
        history.is_beyond_doubt.then(|| Verdict::of(&history, product).errors)
    });
    let judged: Vec<_> = plans.iter().zip(verdicts).filter_map(|(plan, errors)| Some((plan, errors?))).collect();
    Tally::of(judged.iter().map(|(_, errors)| *errors)).print("product");
    let wrong: Vec<_> = judged
        .iter()
        .filter(|(_, errors)| *errors != Errors::default())
        .map(|((class, seed), errors)| (class.name(), *seed, *errors))
        .collect();
    assert!(wrong.is_empty(), "{} of {} histories are wrong: {wrong:#?}", wrong.len(), judged.len());
    assert!(judged.len() * judged_of > plans.len(), "{} of {} histories are beyond doubt", judged.len(), plans.len());
}

/// Histories that were counted wrongly once, each of its own kind.
const FOUND: [(Class, Databases, u64); 7] = [
    // A feed leaves the configuration while it is compared with others and its database is about to be read.
    (Class::CalmConfiguration, Databases::All, 63),
    (Class::CalmConfiguration, Databases::All, 80),
    // The only skill is renamed: of no row the fingerprint is the same.
    (Class::CalmAll, Databases::All, 15),
    // A copy changes as the database does, and has no durations to tell the two apart.
    (Class::CalmAll, Databases::All, 110),
    // One of two addresses leaves before it is known that they are one server.
    (Class::HardConfiguration, Databases::All, 13),
    // Of two addresses of a server one is respelled before either is bound: the other one is bound before its heir.
    (Class::HardConfiguration, Databases::All, 137),
    // Two processes begin with one database, and nobody reads it beside one of them.
    (Class::CalmConfiguration, Databases::Some, 34),
];

#[test]
fn histories_that_were_counted_wrongly_once_are_counted_exactly() {
    let verdicts = in_parallel(&FOUND, |(class, databases, seed)| {
        let history = History::draw_with(*class, *databases, *seed);
        Verdict::of(&history, &mut LedgerProduct::new(Persistence::Often(5), *seed)).errors
    });
    for (history, errors) in FOUND.iter().zip(verdicts) {
        assert_eq!(errors, Errors::default(), "{history:?}");
    }
}

fn seeds_with_databases() -> u64 {
    let requested = env::var("SESSION_BUDDY_BRIDGE_HISTORIES").ok().map(|text| text.parse().expect("a number"));
    requested.unwrap_or(if is_long() { 300 } else { 10 })
}

#[test]
fn histories_whose_databases_are_all_read_are_counted_exactly() {
    databases_are_counted_exactly(Databases::All, 2);
}

/// Whatever nobody reads is known by its numbers and timestamps alone.
#[test]
fn histories_whose_databases_are_read_in_part_are_counted_exactly() {
    databases_are_counted_exactly(Databases::Some, 4);
}

#[test]
fn the_generator_draws_the_histories_that_the_model_judged() {
    for class in Class::ALL {
        let of_model = kept_verdicts(class);
        let of_model = if is_long() { &of_model[..] } else { &of_model[..HISTORIES] };
        let digests = in_parallel(of_model, |model| digest(&History::draw(class, model.seed)));
        for (model, digest) in of_model.iter().zip(digests) {
            assert_eq!(digest, model.digest, "another history: {} {}", class.name(), model.seed);
        }
    }
}

fn class_of_environment() -> Option<Class> {
    let name = env::var("CLASS").ok()?;
    let names = Class::ALL.map(Class::name);
    Some(Class::of_name(&name).unwrap_or_else(|| panic!("CLASS={name} is not one of {names:?}")))
}

/// Without `DATABASES` none is read.
fn databases_of_environment() -> Databases {
    match env::var("DATABASES").ok().as_deref() {
        None | Some("none") => Databases::None,
        Some("some") => Databases::Some,
        Some("all") => Databases::All,
        Some(other) => panic!("DATABASES={other} is not one of none, some, all"),
    }
}

fn seeds_of_environment() -> Option<Vec<u64>> {
    let text = env::var("SEEDS").ok()?;
    let bad = || -> ! { panic!("SEEDS={text} is not of the form 1..150") };
    let Some((first, last)) = text.split_once("..") else { bad() };
    match (first.parse(), last.trim_start_matches('=').parse()) {
        (Ok(first), Ok(last)) => Some((first..=last).collect()),
        _ => bad(),
    }
}

/// Prints how many histories of `CLASS` (all without) and `SEEDS` (the fixture's without) are counted how, which kinds of
/// operation are to blame, and the seeds that are wrong here and exact with the model.
#[test]
#[ignore = "a tool: it prints a table"]
fn table_of_errors() {
    let databases = databases_of_environment();
    for class in Class::ALL.into_iter().filter(|class| class_of_environment().is_none_or(|only| only == *class)) {
        let of_model: BTreeMap<_, _> =
            kept_verdicts(class).into_iter().map(|verdict| (verdict.seed, verdict.errors)).collect();
        let seeds = seeds_of_environment().unwrap_or_else(|| of_model.keys().copied().collect());
        let verdicts = in_parallel(&seeds, |seed| verdict_with(class, databases, *seed));
        println!("\n{}", class.name());
        Tally::of(seeds.iter().filter_map(|seed| of_model.get(seed).copied())).print("model");
        Tally::of(verdicts.iter().map(|verdict| verdict.errors)).print("product");
        let mut blame: BTreeMap<&str, (usize, usize, i64, usize, i64)> = BTreeMap::new();
        for (operation, over, under) in verdicts.iter().flat_map(|verdict| &verdict.blame) {
            let row = blame.entry(operation).or_default();
            row.0 += 1;
            row.1 += usize::from(*over > 0);
            row.2 += (*over).max(0);
            row.3 += usize::from(*under > 0);
            row.4 += (*under).max(0);
        }
        for (operation, (times, overs, over, unders, under)) in blame {
            if overs > 0 || unders > 0 {
                println!("  {operation:20} {times:4} times: over {overs:3} ({over}), under {unders:3} ({under})");
            }
        }
        let line = |(seed, verdict): (&u64, &Verdict)| {
            let first = verdict.blame.iter().find(|(_, over, under)| *over > 0 || *under > 0);
            let at = first.map_or("", |(operation, ..)| *operation);
            format!("{seed} +{} -{} at {at}", verdict.errors.over, verdict.errors.under)
        };
        let wrong = |expected: bool| {
            let is_wrong = |(seed, verdict): &(&u64, &Verdict)| {
                !verdict.errors.is_exact() && of_model.get(seed).is_some_and(|model| model.is_exact()) == expected
            };
            seeds.iter().zip(&verdicts).filter(is_wrong).map(line).collect::<Vec<_>>()
        };
        let worse = |what: fn(&Errors) -> u64| {
            let is_worse = |(seed, verdict): &(&u64, &Verdict)| {
                what(&verdict.errors) > 0 && of_model.get(seed).is_some_and(|model| what(model) == 0)
            };
            let found = seeds.iter().zip(&verdicts).filter(is_worse);
            found.map(|(seed, verdict)| format!("{seed} {}", what(&verdict.errors))).collect::<Vec<_>>().join("; ")
        };
        println!("  only here: over {}", worse(|errors| errors.over));
        println!("  only here: under {}", worse(|errors| errors.under));
        println!("  only here: anomalies over {}", worse(|errors| errors.anomalies_over));
        println!("  only here: anomalies under {}", worse(|errors| errors.anomalies_under));
        println!("  only here: completed and abandoned mixed up {}", worse(|errors| errors.split));
        println!("  wrong here, exact with the model: {}", wrong(true).join("; "));
        println!("  wrong here, wrong or unknown with the model: {}", wrong(false).join("; "));
    }
}

/// What `tests/model/verdicts.py --trace` prints of each event.
#[derive(Deserialize, Default, Clone, PartialEq)]
struct Traced {
    counted: BTreeMap<String, u64>,
    anomalies: u64,
    notes: Vec<String>,
    /// The number of the source that the model has bound each address to.
    sources: BTreeMap<String, u64>,
}

fn trace_of_the_model(class: Class, seed: u64) -> Option<Vec<Traced>> {
    let script = model_folder().join("verdicts.py");
    let output = Command::new("python3").arg(script).args(["--trace", class.name(), &seed.to_string()]).output();
    let output = output.ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    Some(text.lines().map(|line| serde_json::from_str(line).expect("a line of the trace")).collect())
}

/// Prints the history of `CLASS` and `SEED`, and beside each event what the model and the product have counted then, where
/// one of the two differs from the truth of what was shown until then.
#[test]
#[ignore = "a tool: it prints a history"]
fn trace_of_one_history() {
    let class = class_of_environment().expect("CLASS says which class");
    let seed = env::var("SEED").ok().and_then(|seed| seed.parse().ok()).expect("SEED says which history");
    let history = History::draw_with(class, databases_of_environment(), seed);
    let mut model = trace_of_the_model(class, seed).unwrap_or_default().into_iter();
    let mut model_now = Traced::default();
    // No commits but at its looks: those of this test are after each event.
    let mut product = LedgerProduct::new(Persistence::AtTheEnd, seed);
    let mut is_running = true;
    let mut shown = (BTreeMap::new(), BTreeMap::new());
    let mut anomalies_shown = 0;
    play(&history, &mut product, |at_seconds, event, product| {
        match event {
            Event::Tick | Event::Write(_) => return,
            Event::Stop | Event::Kill => is_running = false,
            Event::Start(_) => is_running = true,
            _ => {}
        }
        println!("{at_seconds:5} {}", describe(event));
        if matches!(
            event,
            Event::Configure(_) | Event::Open(_) | Event::Close(_) | Event::Receive(..) | Event::Start(_)
        ) && let Some(traced) = model.next()
        {
            if !traced.notes.is_empty() || traced.sources != model_now.sources {
                println!("      model: {:?} sources {:?}", traced.notes, traced.sources);
            }
            model_now = traced;
        }
        for notice in product.take_notices() {
            println!("      product: {notice:?}");
        }
        if !is_running {
            return;
        }
        let counted = product.counted(at_seconds);
        let anomalies: u64 = counted.anomalies.values().sum();
        if anomalies != anomalies_shown && anomalies != model_now.anomalies {
            println!("      anomalies: model {}, product {anomalies}", model_now.anomalies);
        }
        anomalies_shown = anomalies;
        let product_now: BTreeMap<String, u64> =
            counted.invocations.iter().map(|(name, split)| (name.to_string(), split.total())).collect();
        let nonzero = |counts: &BTreeMap<String, u64>| {
            counts.iter().filter(|(_, n)| **n > 0).map(|(k, n)| (k.clone(), *n)).collect()
        };
        let (model_counts, product_counts): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (nonzero(&model_now.counted), nonzero(&product_now));
        if let Event::Truth(truth) = event {
            if truth.anomalies != counted.anomalies {
                println!("      anomalies: truth {:?}, product {:?}   <-- product", truth.anomalies, counted.anomalies);
            }
            for (name, due) in &truth.invocations {
                let of = |counts: &BTreeMap<String, u64>| counts.get(&**name).copied().unwrap_or(0);
                let completed = counted.invocations.get(name).map_or(0, |split| split.completed);
                let (total, model, product) = (due.total(), of(&model_counts), of(&product_counts));
                let mark = match (product == total, completed == due.completed) {
                    (true, true) => String::new(),
                    (true, false) => format!("   <-- product: {completed} completed for {}", due.completed),
                    (false, _) => "   <-- product".to_owned(),
                };
                println!("      {name}: truth {total}, model {model}, product {product}{mark}");
            }
        } else if (&model_counts, &product_counts) != (&shown.0, &shown.1) && model_counts != product_counts {
            let names: BTreeSet<_> = model_counts.keys().chain(product_counts.keys()).collect();
            for name in names {
                let (model, product) = (model_counts.get(name), product_counts.get(name));
                if model != product {
                    println!("      {name}: model {model:?}, product {product:?}");
                }
            }
        }
        shown = (model_counts, product_counts);
    });
}
