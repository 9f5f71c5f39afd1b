-- PL/Python looks for modules in the system's places only, and the extension's own are not
-- there. Where they are must be asked of the running server: a path written into a function
-- would be the old one after pg_upgrade. SECURITY DEFINER, because pg_config() is for superusers.
CREATE FUNCTION amqp_inner.load_python() RETURNS void
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
@REFUSE_PARALLEL_MODE@
import sys
folder = plpy.execute("SELECT setting FROM pg_catalog.pg_config() WHERE name = 'PKGLIBDIR'")[0]["setting"] + "/pg_amqp_py"
sys.path.insert(0, folder)
try:
    from pg_amqp_py.backend import functions
except ModuleNotFoundError as error:
    plpy.error(
        f"could not load the Python part of pg_amqp_py: {error}",
        detail=f'It is looked for in "{folder}".',
        hint="Run make install of pg_amqp_py for this PostgreSQL server.",
        sqlstate="58P01",
    )
finally:
    sys.path.remove(folder)
GD["pg_amqp_py"] = functions
$$;

COMMENT ON FUNCTION amqp_inner.load_python() IS
'Loads the Python part of pg_amqp_py into this session.
The other functions call it when they need it.';
