//! Python's `random.Random`, so that a seed gives the same history here and in the Python model.

use std::f64::consts::TAU;

const STATE_WORDS: usize = 624;
const SHIFT: usize = 397;

/// The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998), seeded and consumed as CPython 3.11 does.
pub struct PythonRandom {
    state: [u32; STATE_WORDS],
    next: usize,
    /// `gauss` computes two values and keeps the second.
    spare_gauss: Option<f64>,
}

impl PythonRandom {
    /// `random.Random(seed)`.
    pub fn new(seed: u64) -> Self {
        let mut random = Self { state: [0; STATE_WORDS], next: STATE_WORDS, spare_gauss: None };
        let key = if seed >> 32 == 0 { vec![seed as u32] } else { vec![seed as u32, (seed >> 32) as u32] };
        random.seed_by_array(&key);
        random
    }

    fn seed_by_array(&mut self, key: &[u32]) {
        let state = &mut self.state;
        state[0] = 19_650_218;
        for at in 1..STATE_WORDS {
            let before = state[at - 1] ^ (state[at - 1] >> 30);
            state[at] = before.wrapping_mul(1_812_433_253).wrapping_add(at as u32);
        }
        let (mut at, mut of_key) = (1, 0);
        let wrap = |state: &mut [u32; STATE_WORDS], at: &mut usize| {
            *at += 1;
            if *at == STATE_WORDS {
                state[0] = state[STATE_WORDS - 1];
                *at = 1;
            }
        };
        for _ in 0..STATE_WORDS.max(key.len()) {
            let before = (state[at - 1] ^ (state[at - 1] >> 30)).wrapping_mul(1_664_525);
            state[at] = (state[at] ^ before).wrapping_add(key[of_key]).wrapping_add(of_key as u32);
            wrap(state, &mut at);
            of_key = (of_key + 1) % key.len();
        }
        for _ in 1..STATE_WORDS {
            let before = (state[at - 1] ^ (state[at - 1] >> 30)).wrapping_mul(1_566_083_941);
            state[at] = (state[at] ^ before).wrapping_sub(at as u32);
            wrap(state, &mut at);
        }
        state[0] = 0x8000_0000;
    }

    fn word(&mut self) -> u32 {
        if self.next == STATE_WORDS {
            for at in 0..STATE_WORDS {
                let both = (self.state[at] & 0x8000_0000) | (self.state[(at + 1) % STATE_WORDS] & 0x7fff_ffff);
                let twist = if both & 1 == 0 { 0 } else { 0x9908_b0df };
                self.state[at] = self.state[(at + SHIFT) % STATE_WORDS] ^ (both >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// `random()`: 53 bits, 0 to below 1.
    pub fn unit(&mut self) -> f64 {
        let (high, low) = (self.word() >> 5, self.word() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// Whether an event of this probability happens: `random() < probability`.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// `randrange(bound)`; `bound` is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bits = usize::BITS - bound.leading_zeros();
        loop {
            let drawn = (self.word() >> (32 - bits)) as usize;
            if drawn < bound {
                return drawn;
            }
        }
    }

    /// `randrange(first, end)`.
    pub fn range(&mut self, first: usize, end: usize) -> usize {
        first + self.below(end - first)
    }

    /// `choice(items)`; `items` is not empty.
    pub fn choice<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    /// The index that `choices(range(n), weights)` draws.
    pub fn weighted(&mut self, weights: impl IntoIterator<Item = f64>) -> usize {
        let mut sum = 0.0;
        let sums: Vec<f64> = weights
            .into_iter()
            .scan(&mut sum, |sum, weight| {
                **sum += weight;
                Some(**sum)
            })
            .collect();
        let drawn = self.unit() * sum;
        sums[..sums.len() - 1].partition_point(|bound| *bound <= drawn)
    }

    /// `shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// `uniform(low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// `gauss(mean, deviation)`.
    pub fn gauss(&mut self, mean: f64, deviation: f64) -> f64 {
        let z = self.spare_gauss.take().unwrap_or_else(|| {
            let angle = self.unit() * TAU;
            let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
            self.spare_gauss = Some(angle.sin() * radius);
            angle.cos() * radius
        });
        mean + z * deviation
    }

    /// `lognormvariate(mean, deviation)`.
    pub fn log_normal(&mut self, mean: f64, deviation: f64) -> f64 {
        let magic = 4.0 * (-0.5_f64).exp() / 2.0_f64.sqrt();
        loop {
            let first = self.unit();
            let second = 1.0 - self.unit();
            let z = magic * (first - 0.5) / second;
            if z * z / 4.0 <= -second.ln() {
                return (mean + z * deviation).exp();
            }
        }
    }
}
