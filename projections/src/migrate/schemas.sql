-- Nobody moves the view from here on. Its name is one of projections.views, so nothing else is dropped.
SELECT format('DROP SCHEMA IF EXISTS %I, %I, %I CASCADE', name, name || '_next', name || '_old')
FROM projections.views JOIN coldstream.consumers USING (name)
WHERE name = $1
FOR UPDATE
