//! The table and its verdicts.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::Outcome;
use crate::plot::{self, Plot};

/// Between these the table stands in `docs/dev/performance.md`.
const BEGIN: &str = "<!-- table: begin -->\n";
const END: &str = "<!-- table: end -->";

#[derive(Default)]
pub struct Report {
    filter: Option<String>,
    rows: Vec<Row>,
    plots: Vec<Plot>,
}

struct Row {
    what: String,
    beside: String,
    /// `None` for a guard.
    goal: Option<String>,
    measured: String,
    verdict: &'static str,
}

/// What a figure has to be.
#[derive(Clone, Copy)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// A guard: a row without a verdict, in a table of its own, that shows what a change did to the rest.
    Guard,
}

impl Report {
    pub fn new(filter: Option<&str>) -> Self {
        Self { filter: filter.map(str::to_owned), ..Self::default() }
    }

    /// Whether the rows of this name are asked for.
    pub fn asks_for(&self, name: &str) -> bool {
        self.filter.as_deref().is_none_or(|filter| name.contains(filter))
    }

    /// Adds a figure in `unit`; `detail` says what it was made of.
    pub fn add(&mut self, what: &str, beside: &str, figure: f64, unit: &str, goal: Goal, detail: &str) {
        let (holds, goal) = match goal {
            Goal::AtLeast(least) => (Some(figure >= least), Some(format!("at least {least}{unit}"))),
            Goal::AtMost(most) => (Some(figure <= most), Some(format!("at most {most}{unit}"))),
            Goal::Guard => (None, None),
        };
        let verdict = match holds {
            Some(true) => "holds",
            Some(false) => "**red**",
            None => "",
        };
        let figure = if figure >= 100.0 { format!("{figure:.0}") } else { format!("{figure:.3}") };
        let measured = format!("{figure}{unit} ({detail})");
        println!("{what} | {beside} | {} | {measured} | {verdict}", goal.as_deref().unwrap_or_default());
        self.rows.push(Row { what: what.to_owned(), beside: beside.to_owned(), goal, measured, verdict });
    }

    /// Adds a row with a goal that could not be measured.
    pub fn add_missing(&mut self, what: &str, why: &str) {
        println!("{what}: not measured: {why}");
        let (what, measured) = (what.to_owned(), format!("not measured: {why}"));
        self.rows.push(Row {
            what,
            beside: String::new(),
            goal: Some(String::new()),
            measured,
            verdict: "**missing**",
        });
    }

    pub fn add_plot(&mut self, plot: Plot) {
        self.plots.push(plot);
    }

    /// Returns the rows with a goal, and the guards below them.
    pub fn table(&self) -> String {
        let mut goals = String::from("| what | beside what | goal | measured | |\n| --- | --- | --- | --- | --- |\n");
        let mut guards = String::from("| guard | beside what | measured |\n| --- | --- | --- |\n");
        for Row { what, beside, goal, measured, verdict } in &self.rows {
            let _ = match goal {
                Some(goal) => writeln!(goals, "| {what} | {beside} | {goal} | {measured} | {verdict} |"),
                None => writeln!(guards, "| {what} | {beside} | {measured} |"),
            };
        }
        format!("{goals}\n{guards}")
    }

    /// Writes the table and the plots to `docs/dev/`.
    pub fn write(&self) -> Outcome<()> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/dev");
        let page = docs.join("performance.md");
        let text = fs::read_to_string(&page)?;
        let (before, rest) = text.split_once(BEGIN).ok_or("docs/dev/performance.md has no place for the table")?;
        let (_, after) = rest.split_once(END).ok_or("docs/dev/performance.md has no end of the table")?;
        fs::write(&page, format!("{before}{BEGIN}\n{}\n{END}{after}", self.table()))?;
        for plot in &self.plots {
            plot::draw(plot, &docs.join("performance"))?;
        }
        Ok(())
    }
}
