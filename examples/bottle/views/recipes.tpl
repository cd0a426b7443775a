% rebase("page", title="Recipes")
<ul>
% for name in recipes:
<li><a href="/recipe/{{name}}">{{name}}</a></li>
% end
</ul>
<h2>Menu plan</h2>
<form action="/report">
<label>Days <input name="days" value="30" required></label>
<button>Plan</button>
</form>
