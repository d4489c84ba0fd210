import time
from tests.support.alembic_app import *

def test_try(empty_database, tmp_path):
    app = copy_app(tmp_path/"app", empty_database)
    t=time.time()
    app.run("upgrade","head"); print(time.time()-t); t=time.time()
    print(app.fails("check")); print(time.time()-t)
    up,down=app.revise("shop0002"); print(*up,*down,sep="\n")
    app.run("upgrade","head")
    print(app.run("check"))
    print(app.revise("empty"))
    app.file("empty").unlink()
    print(app.objects())
    app.run("downgrade","base")
    print(app.objects())

import pytest
@pytest.mark.parametrize("env",[{}, {"SHOP_CONVENTION":"1"},{"SHOP_SCHEMA":"jobs","SHOP_INCLUDE_SCHEMAS":"1"},{"SHOP_SCHEMA":"jobs"},{"SHOP_SCHEMA":"public"}])
def test_own(empty_database, tmp_path,env):
    app = copy_app(tmp_path/"app", empty_database, SHOP_MODELS="own_job", **env)
    app.run("upgrade","head")
    up,down=app.revise("shop0002"); print(*up,*down,sep="\n")
    app.run("upgrade","head")
    print(app.run("check"))
    print(app.objects())
    app.run("downgrade","base")
    print(app.objects())
