//! Seeded orders that need no table.

/// Rounds of the Feistel network.
const ROUNDS: u64 = 6;

/// Which of `n` rows, sorted by length, comes at `index` (below `n`) of epoch `epoch`: a permutation of 0..n whose
/// stretches of `strata` have about equal lengths in sum. The rows are cut into `strata` parts of equal size, each in a
/// seeded order of its own, and every stretch takes one row from each part.
pub fn stratified(seed: u64, epoch: u64, n: u64, strata: u64, index: u64) -> u64 {
    let (stratum, within) = (index % strata, index / strata);
    // Rows `stratum`, `stratum + strata` and so on, as many as there are below n.
    let size = (n - stratum).div_ceil(strata);
    let first = stratum * (n / strata) + stratum.min(n % strata);
    first + permute(seed ^ mix(stratum + 1), epoch, size, within)
}

/// Where permutation (`seed`, `epoch`) of 0..n sends `index`, which is below n: a Feistel network on the next even
/// power of two, walked until it lands below n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
fn permute(seed: u64, epoch: u64, n: u64, index: u64) -> u64 {
    let half_bits = (u64::BITS - n.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half_bits) - 1;
    let key = mix(seed ^ mix(epoch));
    let mut value = index;
    loop {
        let (mut left, mut right) = (value >> half_bits, value & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (mix(key ^ mix(right ^ (round << 48))) & mask));
        }
        value = left << half_bits | right;
        // The domain is at most four times n, and the walk is a cycle through `index`, so it ends.
        if value < n {
            return value;
        }
    }
}

/// The seed of what is drawn for the row at `position` of all epochs.
pub fn draw(seed: u64, position: u64) -> u64 {
    mix(seed ^ mix(position ^ 1 << 63))
}

/// SplitMix64's finaliser.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_is_a_permutation_of_its_own() {
        for n in [1u64, 2, 3, 7, 64, 65, 1000] {
            let epochs: Vec<Vec<u64>> =
                (0..2).map(|epoch| (0..n).map(|index| permute(7, epoch, n, index)).collect()).collect();
            for epoch in &epochs {
                let mut sorted = epoch.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            }
            assert!(n < 64 || epochs[0] != epochs[1]);
            assert!(n < 64 || epochs[0] != (0..n).map(|i| permute(8, 0, n, i)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn each_stretch_takes_a_row_of_each_part_and_an_epoch_every_row_once() {
        for (n, strata) in [(1u64, 8), (3, 8), (8, 8), (10, 8), (64, 8), (1000, 1), (1003, 7)] {
            let epoch: Vec<u64> = (0..n).map(|index| stratified(5, 3, n, strata, index)).collect();
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>(), "{n} rows, {strata} parts");
            let part = |row: u64| (0..strata).rfind(|part| part * (n / strata) + (*part).min(n % strata) <= row);
            for stretch in epoch.chunks_exact(strata as usize) {
                let parts: Vec<u64> = stretch.iter().filter_map(|row| part(*row)).collect();
                assert_eq!(parts, (0..strata).collect::<Vec<_>>(), "{n} rows, {strata} parts");
            }
        }
        let firsts = |seed| (0..20).map(|k| stratified(seed, 0, 800, 8, 8 * k)).collect::<Vec<_>>();
        let seconds: Vec<u64> = (0..20).map(|k| stratified(5, 0, 800, 8, 8 * k + 1) - 100).collect();
        assert!(firsts(5) != firsts(6) && firsts(5) != seconds);
    }

    #[test]
    fn neighbours_are_sent_apart() {
        let near = (0..999).filter(|i| permute(1, 0, 1000, *i).abs_diff(permute(1, 0, 1000, i + 1)) < 10).count();
        assert!(near < 60, "{near} of 999 neighbours stay within 10, about 19 expected");
    }
}
