//! Argon2id hashes as PHC strings, computed in memory that is used again and again.

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};

use super::password::PasswordError;

/// What a hash is computed in. Taking 19 MiB from the allocator for each hash makes the process several times larger.
pub type Memory = Vec<Block>;

/// Most memory that a stored hash may ask for, in KiB. None of ours asks for more.
const MAX_MEMORY_COST: u32 = 64 << 10;

/// A new hash, with 19 MiB, 2 passes and 1 lane: the crate's default, and the floor that OWASP names.
pub fn hash(password: &str, memory: &mut Memory) -> Result<String, PasswordError> {
    let (algorithm, version, params) = (Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
    let salt = Salt::generate();
    let output = compute(password, &salt, (algorithm, version, &params), Params::DEFAULT_OUTPUT_LEN, memory)?;
    let hash = PasswordHash {
        algorithm: algorithm.ident(),
        version: Some(version.into()),
        params: ParamsString::try_from(&params).map_err(failed)?,
        salt: Some(salt),
        hash: Some(output),
    };
    Ok(hash.to_string())
}

/// Whether `stored` is the hash of `password`. Compares in constant time.
pub fn verify(password: &str, stored: &str, memory: &mut Memory) -> Result<bool, PasswordError> {
    let parsed = PasswordHash::new(stored).map_err(failed)?;
    let (Some(salt), Some(expected)) = (parsed.salt.as_ref(), parsed.hash.as_ref()) else {
        return Err(failed("a stored hash has no salt or no hash"));
    };
    let algorithm = Algorithm::try_from(parsed.algorithm.as_str()).map_err(failed)?;
    let version = parsed.version.map_or(Ok(Version::V0x13), Version::try_from).map_err(failed)?;
    let params = Params::try_from(&parsed).map_err(failed)?;
    if params.m_cost() > MAX_MEMORY_COST {
        return Err(failed("a stored hash asks for too much memory"));
    }
    let output = compute(password, salt, (algorithm, version, &params), expected.len(), memory)?;
    Ok(output == *expected)
}

fn compute(
    password: &str,
    salt: &Salt,
    (algorithm, version, params): (Algorithm, Version, &Params),
    length: usize,
    memory: &mut Memory,
) -> Result<Output, PasswordError> {
    let blocks = params.block_count();
    if memory.len() < blocks {
        memory.resize(blocks, Block::default());
    }
    let blocks = memory.get_mut(..blocks).ok_or_else(|| failed("no memory"))?;
    let mut output = vec![0; length];
    Argon2::new(algorithm, version, params.clone())
        .hash_password_into_with_memory(password.as_bytes(), salt, &mut output, blocks)
        .map_err(failed)?;
    Output::new(&output).map_err(failed)
}

fn failed(error: impl ToString) -> PasswordError {
    PasswordError::Hash(error.to_string().into())
}

#[cfg(test)]
mod tests {
    use argon2::PasswordVerifier;

    use super::*;

    #[test]
    fn hashes_are_standard() {
        let mut memory = Memory::new();
        let hash = hash("password", &mut memory).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        let parsed = PasswordHash::new(&hash).unwrap();
        assert!(Argon2::default().verify_password(b"password", &parsed).is_ok());
        assert!(verify("password", &hash, &mut memory).unwrap());
        assert!(!verify("passwore", &hash, &mut memory).unwrap());
    }

    #[test]
    fn stored_parameters_count_and_are_bounded() {
        let mut memory = Memory::new();
        let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 2, 1, Some(24)).unwrap());
        let weak: PasswordHash = argon2::PasswordHasher::hash_password(&weak, b"password").unwrap();
        assert!(verify("password", &weak.to_string(), &mut memory).unwrap());
        let huge = hash("x", &mut memory).unwrap().replace("m=19456", "m=4194304");
        assert!(verify("x", &huge, &mut memory).is_err());
        for odd in ["", "x", "$argon2id$v=19$m=19456,t=2,p=1", "$scrypt$ln=1$YWFhYWFhYWE$YWFhYWFhYWFhYWFh"] {
            assert!(verify("x", odd, &mut memory).is_err(), "{odd}");
        }
    }
}
