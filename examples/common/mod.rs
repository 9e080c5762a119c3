//! What the examples share: when to end.

use std::env;
use std::error::Error;
use std::time::Duration;

/// What an example returns: any error, printed.
pub type Outcome = Result<(), Box<dyn Error>>;

/// The command line of an example: words, and `--seconds N` to end by itself.
pub struct Args {
    /// Everything else, in order.
    pub words: Vec<String>,
    seconds: Option<f64>,
}

impl Args {
    /// Reads the command line of this process.
    pub fn read() -> Result<Self, Box<dyn Error>> {
        let (mut words, mut seconds) = (Vec::new(), None);
        let mut args = env::args().skip(1);
        while let Some(arg) = args.next() {
            if arg != "--seconds" {
                words.push(arg);
                continue;
            }
            let value = args.next().unwrap_or_default();
            let number = value.parse().map_err(|_| format!("--seconds \"{value}\" is no number"))?;
            Duration::try_from_secs_f64(number).map_err(|error| format!("--seconds {number}: {error}"))?;
            seconds = Some(number);
        }
        Ok(Self { words, seconds })
    }

    /// Returns at Ctrl-C, or after `--seconds`.
    pub async fn the_end(&self) {
        let time_is_up = async {
            match self.seconds {
                Some(seconds) => tokio::time::sleep(Duration::from_secs_f64(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time_is_up => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    }
}
