//! Growth, drawn on logarithmic axes: what is linear is a straight line at 45 degrees, what is flat lies.

use std::fs;
use std::path::Path;

use plotters::prelude::*;

use crate::Outcome;

pub struct Plot {
    /// Of the file, without its ending.
    pub name: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    /// A name, and a value for each number of skills.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(44, 160, 44), RGBColor(148, 103, 189)];

pub fn draw(plot: &Plot, folder: &Path) -> Outcome<()> {
    fs::create_dir_all(folder)?;
    let file = folder.join(format!("{}.svg", plot.name));
    let root = SVGBackend::new(&file, (720, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let values = || plot.lines.iter().flat_map(|(_, points)| points.iter().copied());
    let low = values().map(|(_, y)| y).fold(f64::MAX, f64::min);
    let high = values().map(|(_, y)| y).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption(plot.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(76)
        .build_cartesian_2d((80.0..125_000.0).log_scale(), (low / 2.0..high * 2.0).log_scale())?;
    chart.configure_mesh().x_desc("skills").y_desc(plot.unit).draw()?;
    for ((name, points), colour) in plot.lines.iter().zip(COLOURS) {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
