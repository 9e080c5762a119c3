//! The files of the live page, from `page/`, without a build step. `uPlot.*` are those of the package uplot 1.6.32,
//! unchanged, with its licence beside them.

use bytes::Bytes;

/// Placeholder for the telemetry path, which is only known at run time.
const TELEMETRY_PATH: &str = "{telemetry_path}";

/// A file of the live page.
#[derive(Debug)]
pub(super) struct Asset {
    path: &'static str,
    pub media_type: &'static str,
    text: &'static str,
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

static ASSETS: [Asset; 8] = [
    Asset { path: "/", media_type: "text/html; charset=utf-8", text: include_str!("page/index.html") },
    Asset { path: "/assets/page.js", media_type: JAVASCRIPT, text: include_str!("page/page.js") },
    Asset { path: "/assets/charts.js", media_type: JAVASCRIPT, text: include_str!("page/charts.js") },
    Asset { path: "/assets/format.js", media_type: JAVASCRIPT, text: include_str!("page/format.js") },
    Asset { path: "/assets/page.css", media_type: CSS, text: include_str!("page/page.css") },
    Asset { path: "/assets/icon.svg", media_type: "image/svg+xml", text: include_str!("page/icon.svg") },
    Asset { path: "/assets/uPlot.js", media_type: JAVASCRIPT, text: include_str!("page/uPlot.iife.min.js") },
    Asset { path: "/assets/uPlot.css", media_type: CSS, text: include_str!("page/uPlot.min.css") },
];

pub(super) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

impl Asset {
    pub fn body(&self, telemetry_path: &str) -> Bytes {
        if !self.text.contains(TELEMETRY_PATH) {
            return Bytes::from_static(self.text.as_bytes());
        }
        // Links are relative, so that the page works behind a proxy that puts it below some path.
        let relative = telemetry_path.strip_prefix('/').unwrap_or(telemetry_path);
        self.text.replace(TELEMETRY_PATH, &escaped(relative)).into()
    }
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
