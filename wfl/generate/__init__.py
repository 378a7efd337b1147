"""Operations that make new configurations from old ones."""
