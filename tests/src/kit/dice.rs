//! Chance that a seed repeats, for tests that act at random moments.

/// The seed of a run without `MINTAGE_SEED`.
const SEED: u64 = 20_26;

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Seeded by `MINTAGE_SEED`; the seed is printed, so that a failure can be repeated.
    pub fn from_env() -> Self {
        let given = std::env::var("MINTAGE_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or(SEED);
        println!("MINTAGE_SEED={seed}");
        Self(seed)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Whether the long campaigns were asked for (`MINTAGE_FULL=1`).
pub fn full() -> bool {
    std::env::var("MINTAGE_FULL").is_ok_and(|value| value == "1")
}
