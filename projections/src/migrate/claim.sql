INSERT INTO projections.migrations (number) VALUES ($1) ON CONFLICT (number) DO NOTHING
