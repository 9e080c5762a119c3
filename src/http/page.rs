//! The landing page.

use super::FeedReadiness;

/// The page as HTML, with every value escaped.
pub(super) fn landing(telemetry_path: &str, feeds: &[FeedReadiness]) -> String {
    let telemetry_path = escaped(telemetry_path);
    let states: String = feeds
        .iter()
        .map(|feed| {
            let state = if feed.live { "live" } else { "not live" };
            format!("<tr><td>{}</td><td>{state}</td><td>{}</td></tr>\n", escaped(&feed.identity), escaped(&feed.reason))
        })
        .collect();
    let feeds = if states.is_empty() {
        "<p>No feeds are configured.</p>\n".to_owned()
    } else {
        format!("<table>\n<tr><th>Feed</th><th>State</th><th>Why</th></tr>\n{states}</table>\n")
    };
    format!(
        "<!DOCTYPE html>\n\
         <html lang=\"en\">\n\
         <head><meta charset=\"utf-8\"><title>Session-Buddy bridge</title>\n\
         <style>body {{ font-family: sans-serif; margin: 2em }} td, th {{ text-align: left; padding-right: 2em }}</style></head>\n\
         <body>\n\
         <h1>Session-Buddy bridge</h1>\n\
         <p>Version {version}. Shows what Session-Buddy's metrics feed says, for Prometheus.</p>\n\
         <ul>\n\
         <li><a href=\"{telemetry_path}\">Metrics</a></li>\n\
         <li><a href=\"/-/healthy\">Health</a></li>\n\
         <li><a href=\"/-/ready\">Readiness</a></li>\n\
         </ul>\n\
         {feeds}\
         </body>\n\
         </html>\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(character),
        }
    }
    out
}
