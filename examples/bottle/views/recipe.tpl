% rebase("page", title=name)
<p role="status">For {{guests}} {{"guest" if guests == 1 else "guests"}}</p>
<ul>
% for food, amount in grams.items():
<li>{{amount}} g of {{food}}</li>
% end
</ul>
<form method="post">
<label>Guests <input name="guests" type="number" min="1" value="{{guests}}"></label>
<button>Scale</button>
</form>
