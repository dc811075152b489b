//! What tells texts apart.

use anyhow::Result;

use super::Dataset;

impl Dataset {
    /// BLAKE3 over what a model is asked on this text: of each row its tokens, and which tokens it is to predict where.
    /// Equal for equal texts that are cut alike by equal tokenizers, whatever files they came from.
    pub fn digest(&self) -> Result<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        let mut write = |number: usize| {
            hasher.update(&(number as u64).to_le_bytes());
        };
        for index in 0..self.windows() {
            let batch = self.batch_of(&[index])?;
            let tokens: Vec<u32> = batch.tokens.to_vec1()?;
            write(tokens.len());
            tokens.iter().for_each(|token| write(*token as usize));
            write(batch.targets.len());
            batch.targets.iter().flat_map(|target| [target.position, target.token]).for_each(|at| write(at as usize));
            for row in &batch.rows {
                write(row.answer);
                row.choices.iter().flat_map(|range| [range.start, range.end]).for_each(&mut write);
                row.asked.iter().flat_map(|asked| asked.row.bytes()).for_each(|byte| write(usize::from(byte)));
            }
        }
        Ok(*hasher.finalize().as_bytes())
    }
}
