//! What the examples share: when to end.

use std::env;
use std::error::Error;
use std::time::Duration;

/// What an example returns: any error, printed.
pub type Outcome = Result<(), Box<dyn Error>>;

/// When an example ends.
pub struct End {
    after: Option<Duration>,
}

/// Reads the command line of this process: one word, if the example makes use of one, and `--seconds N`.
pub fn args() -> Result<(Option<String>, End), Box<dyn Error>> {
    let (mut word, mut after) = (None, None);
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--seconds" {
            let value = args.next().unwrap_or_default();
            let seconds = value.parse().map_err(|_| format!("--seconds \"{value}\" is no number"))?;
            after = Some(Duration::try_from_secs_f64(seconds).map_err(|error| format!("--seconds {value}: {error}"))?);
        } else if let Some(earlier) = word.replace(arg) {
            return Err(format!("one word too many beside \"{earlier}\"").into());
        }
    }
    Ok((word, End { after }))
}

impl End {
    /// Returns at Ctrl-C, or after `--seconds`.
    pub async fn wait(self) {
        let time_is_up = async {
            match self.after {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time_is_up => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    }
}
